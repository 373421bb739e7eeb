"""The public data sets: who published them, on which terms, and how to cite them (`SOURCES`).

Looked up in November 2026, mostly without a look at the landing pages themselves: an entry says what it rests on, and
"not verified" where the source's own words were out of reach. The source's page decides, not this file.
"""

from dataclasses import dataclass
from typing import Literal

from ..descriptions import TARGETS

Redistribution = Literal["allowed", "not allowed", "not stated"]

GONG_2021 = """@inproceedings{gong2021multitask,
  title     = {Multi-Task Learning for Thyroid Nodule Segmentation with Thyroid Region Prior},
  author    = {Gong, Haifan and Chen, Guanqi and Wang, Ranran and Xie, Xiang and Mao, Mingzhi and Yu, Yizhou and
               Chen, Fei and Li, Guanbin},
  booktitle = {2021 IEEE 18th International Symposium on Biomedical Imaging (ISBI)},
  pages     = {257--261},
  year      = {2021},
  doi       = {10.1109/ISBI48211.2021.9434087}
}"""

GONG_2023 = """@article{gong2023thyroid,
  title   = {Thyroid Region Prior Guided Attention for Ultrasound Segmentation of Thyroid Nodules},
  author  = {Gong, Haifan and Chen, Jiaxin and Chen, Guanqi and Li, Haofeng and Chen, Fei and Li, Guanbin},
  journal = {Computers in Biology and Medicine},
  volume  = {155},
  pages   = {106389},
  year    = {2023},
  doi     = {10.1016/j.compbiomed.2022.106389}
}"""

WUNDERLING_2017 = """@inproceedings{wunderling2017comparison,
  title     = {Comparison of thyroid segmentation techniques for {3D} ultrasound},
  author    = {Wunderling, T. and Golla, B. and Poudel, P. and Arens, C. and Friebe, M. and Hansen, C.},
  booktitle = {Proceedings of SPIE Medical Imaging},
  volume    = {10133},
  pages     = {1013317},
  year      = {2017},
  doi       = {10.1117/12.2254234}
}"""

AL_DHABYANI_2020 = """@article{aldhabyani2020dataset,
  title   = {Dataset of breast ultrasound images},
  author  = {Al-Dhabyani, Walid and Gomaa, Mohammed and Khaled, Hussien and Fahmy, Aly},
  journal = {Data in Brief},
  volume  = {28},
  pages   = {104863},
  year    = {2020},
  doi     = {10.1016/j.dib.2019.104863}
}"""

LECLERC_2019 = """@article{leclerc2019deep,
  title   = {Deep Learning for Segmentation Using an Open Large-Scale Dataset in {2D} Echocardiography},
  author  = {Leclerc, Sarah and Smistad, Erik and Pedrosa, Jo{\\~a}o and {\\O}stvik, Andreas and
             Cervenansky, Frederic and Espinosa, Florian and Espeland, Torvald and Berg, Erik Andreas Rye and
             Jodoin, Pierre-Marc and Grenier, Thomas and Lartizien, Carole and D'hooge, Jan and Lovstakken, Lasse and
             Bernard, Olivier},
  journal = {IEEE Transactions on Medical Imaging},
  volume  = {38},
  number  = {9},
  pages   = {2198--2210},
  year    = {2019},
  doi     = {10.1109/TMI.2019.2900516}
}"""

PEDRAZA_2015 = """@inproceedings{pedraza2015open,
  title     = {An open access thyroid ultrasound image database},
  author    = {Pedraza, Lina and Vargas, Carlos and Narv{\\'a}ez, Fabi{\\'a}n and Dur{\\'a}n, Oscar and
               Mu{\\~n}oz, Emma and Romero, Eduardo},
  booktitle = {10th International Symposium on Medical Information Processing and Analysis},
  series    = {Proceedings of SPIE},
  volume    = {9287},
  pages     = {92870W},
  year      = {2015},
  doi       = {10.1117/12.2073532}
}"""

YAP_2018 = """@article{yap2018automated,
  title   = {Automated Breast Ultrasound Lesions Detection Using Convolutional Neural Networks},
  author  = {Yap, Moi Hoon and Pons, Gerard and Mart{\\'i}, Joan and Ganau, Sergi and Sent{\\'i}s, Melcior and
             Zwiggelaar, Reyer and Davison, Adrian K. and Mart{\\'i}, Robert},
  journal = {IEEE Journal of Biomedical and Health Informatics},
  volume  = {22},
  number  = {4},
  pages   = {1218--1226},
  year    = {2018},
  doi     = {10.1109/JBHI.2017.2731873}
}"""

DEGERLI_2021 = """@article{degerli2021early,
  title   = {Early Detection of Myocardial Infarction in Low-Quality Echocardiography},
  author  = {Degerli, Aysen and Zabihi, Morteza and Kiranyaz, Serkan and Hamid, Tahir and Mazhar, Rashid and
             Hamila, Ridha and Gabbouj, Moncef},
  journal = {IEEE Access},
  volume  = {9},
  pages   = {34442--34453},
  year    = {2021},
  doi     = {10.1109/ACCESS.2021.3059595}
}"""


@dataclass(frozen=True)
class Source:
    """A public data set as its authors published it.

    Attributes:
        title: in full.
        targets: what its masks outline, by the names of `descriptions.TARGETS`.
        extent: how much was published, in words.
        num_images: images as published; None where the source counts recordings.
        url: where it is published.
        license: in a few words; "none stated" where the source names none, "not verified" where it could not be read.
        terms: what the source says, in our words, and what that rests on.
        terms_url: where the terms stand.
        redistribution: whether those terms let others pass the images on.
        doi: of the publication that introduces it.
        bibtex: everything to cite, one entry each.
        limits: what is known to be wrong with it, or easily misread; empty where nothing is.
    """

    title: str
    targets: tuple[str, ...]
    extent: str
    num_images: int | None
    url: str
    license: str
    terms: str
    terms_url: str
    redistribution: Redistribution
    doi: str
    bibtex: tuple[str, ...]
    limits: str = ""

    @property
    def organ(self) -> str:
        """Where the targets lie."""
        return TARGETS[self.targets[0]].organ


TRFE = "https://github.com/haifangong/TRFE-Net-for-thyroid-nodule-segmentation"
CAMUS_COLLECTION = "https://humanheart-project.creatis.insa-lyon.fr/database/#collection/6373703d73e9f0047faa1bc8"

SOURCES: dict[str, Source] = {
    "TN3K": Source(
        title="TN3K: Thyroid Nodule 3K",
        targets=("thyroid nodule",),
        extent="3,493 images of 2,421 patients, 2,879 to train and 614 to test",
        num_images=3493,
        url=TRFE,
        license="none stated",
        terms=(
            "The README offers the images for download as an open-access data set and asks everyone who uses them to "
            "cite the two papers. Its MIT licence is for the code; none is named for the images."
        ),
        terms_url=f"{TRFE}#readme",
        redistribution="not stated",
        doi="10.1016/j.compbiomed.2022.106389",
        bibtex=(GONG_2021, GONG_2023),
    ),
    "TG3K": Source(
        title="TG3K: Thyroid Gland 3K",
        targets=("thyroid gland",),
        extent="3,585 frames of 16 three-dimensional records, those with more than 6 % of the pixels in the gland",
        num_images=3585,
        url=TRFE,
        license="none stated",
        terms=(
            "Comes with TN3K: the README names no licence for the images. The frames were cut from the records of "
            "Wunderling et al., whose page (https://opencas.webarchiv.kit.edu/?q=node/29) asks for a citation and "
            "names no licence either."
        ),
        terms_url=f"{TRFE}#readme",
        redistribution="not stated",
        doi="10.1016/j.compbiomed.2022.106389",
        bibtex=(GONG_2023, WUNDERLING_2017),
        limits="Neighbouring frames of a record look alike, and all of them show healthy glands.",
    ),
    "BUSI": Source(
        title="Breast Ultrasound Images Dataset (BUSI)",
        targets=("breast lesion",),
        extent="780 images of 600 women: 437 benign, 210 malignant, 133 normal",
        num_images=780,
        url="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        license="not verified",
        terms=(
            "No licence of the authors for the images was found; the download page could not be read (not verified). "
            "Copies elsewhere carry labels that their uploaders chose and that contradict each other."
        ),
        terms_url="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        redistribution="not stated",
        doi="10.1016/j.dib.2019.104863",
        bibtex=(AL_DHABYANI_2020,),
        limits=(
            "Pawłowska et al. (doi:10.1016/j.dib.2023.109247) find near-duplicate images, lesions filed both as "
            "benign and as malignant, images of the axilla, and drawn-in marks and text."
        ),
    ),
    "CAMUS": Source(
        title="CAMUS: Cardiac Acquisitions for Multi-structure Ultrasound Segmentation",
        targets=("left ventricle", "myocardium", "left atrium"),
        extent="2,000 images of 500 patients: two- and four-chamber views, each at end diastole and at end systole",
        num_images=2000,
        url="https://www.creatis.insa-lyon.fr/Challenge/camus/",
        license="CC BY-NC-SA 4.0",
        terms=(
            "CC BY-NC-SA 4.0 with two additions: for non-commercial scientific research only, and the paper must be "
            "cited. What is passed on keeps that licence, names the authors and says what was changed. Rests on "
            "copies of LICENSE_TERMS.md, which comes with the download; the page itself was not verified."
        ),
        terms_url=CAMUS_COLLECTION,
        redistribution="allowed",
        doi="10.1109/TMI.2019.2900516",
        bibtex=(LECLERC_2019,),
    ),
    "DDTI": Source(
        title="DDTI: Digital Database of Thyroid Ultrasound Images",
        targets=("thyroid nodule",),
        extent="637 images in the release with masks that TRFE and US30K use",
        num_images=637,
        url="https://cimalab.unal.edu.co/projects/detail/20/",
        license="not verified",
        terms=(
            "The paper presents an open-access database for the comparison of methods; no licence was found, and the "
            "project page could not be read (not verified)."
        ),
        terms_url="https://doi.org/10.1117/12.2073532",
        redistribution="not stated",
        doi="10.1117/12.2073532",
        bibtex=(PEDRAZA_2015,),
        limits=(
            "The release of 637 images was made by others than the authors: it is numbered anew, leaves out scans "
            "with several nodules and scans with damaged marks, and its table of categories is made up."
        ),
    ),
    "UDIAT": Source(
        title="Breast Ultrasound Dataset B (UDIAT)",
        targets=("breast lesion",),
        extent="163 images of different women: 110 benign, 53 malignant",
        num_images=163,
        url="https://helward.mmu.ac.uk/STAFF/M.Yap/dataset.php",
        license="signed licence agreement, for research",
        terms=(
            "The paper makes Dataset B available for research purposes. Whoever wants it sends a signed licence "
            "agreement and is given access once approved. The text of the agreement was not verified: who signed it "
            "has to look there before passing anything on."
        ),
        terms_url="https://helward.mmu.ac.uk/STAFF/M.Yap/dataset.php",
        redistribution="not stated",
        doi="10.1109/JBHI.2017.2731873",
        bibtex=(YAP_2018,),
    ),
    "HMC-QU": Source(
        title="HMC-QU: echocardiography of Hamad Medical Corporation, Tampere University and Qatar University",
        targets=("myocardium",),
        extent=(
            "162 apical four-chamber and 160 two-chamber recordings; 109 of the former have a mask of the left "
            "ventricle's wall for every frame of one cardiac cycle"
        ),
        num_images=None,
        url="https://www.kaggle.com/datasets/aysendegerli/hmcqu-dataset",
        license="not verified",
        terms=(
            "The paper calls the data set public and points to Kaggle; the licence field and the terms there could "
            "not be read (not verified)."
        ),
        terms_url="https://www.kaggle.com/datasets/aysendegerli/hmcqu-dataset",
        redistribution="not stated",
        doi="10.1109/ACCESS.2021.3059595",
        bibtex=(DEGERLI_2021,),
        limits="Masks have 224x224 pixels whatever the size of the recording.",
    ),
}
