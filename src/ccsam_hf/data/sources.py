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

VAN_DEN_HEUVEL_2018 = """@article{vandenheuvel2018automated,
  title   = {Automated measurement of fetal head circumference using {2D} ultrasound images},
  author  = {van den Heuvel, Thomas L. A. and de Bruijn, Dagmar and de Korte, Chris L. and van Ginneken, Bram},
  journal = {PLOS ONE},
  volume  = {13},
  number  = {8},
  pages   = {e0200412},
  year    = {2018},
  doi     = {10.1371/journal.pone.0200412}
}"""

MOMOT_2022 = """@misc{momot2022common,
  title     = {Common Carotid Artery Ultrasound Images},
  author    = {Momot, Agata},
  publisher = {Mendeley Data},
  edition   = {V1},
  year      = {2022},
  doi       = {10.17632/d4xt63mgjm.1}
}"""

KAGGLE_2016 = """@misc{kaggle2016nerve,
  title        = {Ultrasound Nerve Segmentation},
  author       = {Montoya, Anna and Hasnin and kaggle446 and shirzad and Cukierski, Will and yffud},
  howpublished = {Kaggle},
  year         = {2016},
  note         = {\\url{https://kaggle.com/competitions/ultrasound-nerve-segmentation}}
}"""

ZHAO_2022 = """@article{zhao2022mmotu,
  title   = {A Multi-Modality Ovarian Tumor Ultrasound Image Dataset for Unsupervised Cross-Domain Semantic
             Segmentation},
  author  = {Zhao, Qi and Lyu, Shuchang and Bai, Wenpei and Cai, Linghan and Liu, Binghao and Cheng, Guangliang and
             Wu, Meijing and Sang, Xiubo and Yang, Min and Chen, Lijiang},
  journal = {arXiv preprint arXiv:2207.06799},
  year    = {2022},
  doi     = {10.48550/arXiv.2207.06799}
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
        doi: of the publication that introduces it; None where there is none.
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
    doi: str | None
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
            "Offered for research; the authors ask for a citation. No licence of theirs for the images was found, and "
            "the download page could not be read (not verified). Copies elsewhere carry labels that their uploaders "
            'chose and that contradict each other: CC0 1.0 in one catalogue, "other" in a mirror.'
        ),
        terms_url="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        redistribution="not stated",
        doi="10.1016/j.dib.2019.104863",
        bibtex=(AL_DHABYANI_2020,),
        limits=(
            "Pawłowska et al. (doi:10.1016/j.dib.2023.109247) find near-duplicate images, lesions filed both as "
            "benign and as malignant, images of the axilla, and drawn-in marks and text. The release names no "
            "patients: keep near-duplicates in one split."
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
        extent=(
            "637 images in the release with masks that TRFE and US30K use; the original has outlines in XML files, "
            "one for each patient"
        ),
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
            "with several nodules and scans with damaged marks, and its table of categories is made up. In the "
            "original some XML files break off in the middle of their outlines."
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
    "HC18": Source(
        title="HC18: Automated measurement of fetal head circumference",
        targets=("fetal head",),
        extent="999 images with the outline of an ellipse, of 806 examinations, and 335 test images without",
        num_images=999,
        url="https://hc18.grand-challenge.org/",
        license="CC BY 4.0",
        terms=(
            "CC BY 4.0: the authors are named, and what was changed is said. Rests on copies of the data set that "
            "name this licence and point to its record on Zenodo; the record itself was not read (not verified)."
        ),
        terms_url="https://zenodo.org/records/1327317",
        redistribution="allowed",
        doi="10.1371/journal.pone.0200412",
        bibtex=(VAN_DEN_HEUVEL_2018,),
        limits="Images of one number, such as 010_HC and 010_2HC, are of one examination and look alike.",
    ),
    "CCA": Source(
        title="Common Carotid Artery Ultrasound Images",
        targets=("carotid artery",),
        extent="1,100 frames of 11 people, 100 of each",
        num_images=1100,
        url="https://data.mendeley.com/datasets/d4xt63mgjm/1",
        license="CC BY 4.0",
        terms=(
            "CC BY 4.0: the author is named, and what was changed is said. Rests on descriptions by others that name "
            "this licence; the page on Mendeley Data itself was not read (not verified)."
        ),
        terms_url="https://data.mendeley.com/datasets/d4xt63mgjm/1",
        redistribution="allowed",
        doi="10.17632/d4xt63mgjm.1",
        bibtex=(MOMOT_2022,),
        limits=(
            "Eleven people and one scanner. Frames of a recording look alike, and which recordings are of one person "
            "is not told; only the artery is outlined, not the vein beside it."
        ),
    ),
    "NERVE": Source(
        title="Ultrasound Nerve Segmentation (Kaggle, 2016)",
        targets=("brachial plexus",),
        extent="5,635 training images of 47 subjects, of which 2,323 show the nerve",
        num_images=5635,
        url="https://www.kaggle.com/c/ultrasound-nerve-segmentation",
        license="rules of the competition, not open",
        terms=(
            "Given out under the rules of a competition, to its participants. They could not be read (not verified): "
            "do not pass the images on, and do not train weights on them that are passed on."
        ),
        terms_url="https://www.kaggle.com/c/ultrasound-nerve-segmentation/rules",
        redistribution="not allowed",
        doi=None,
        bibtex=(KAGGLE_2016,),
        limits="Frames of one subject are near-copies, and some are annotated while their like is not.",
    ),
    "MMOTU": Source(
        title="MMOTU: Multi-Modality Ovarian Tumor Ultrasound, the two-dimensional part",
        targets=("ovarian lesion",),
        extent="1,469 images, 1,000 to train and 469 to test; 170 further ones with contrast agent are not read",
        num_images=1469,
        url="https://github.com/cv516Buaa/MMOTU_DS2Net",
        license="none stated",
        terms=(
            "The README links to the images for download and names no licence for them. A curated copy on Zenodo "
            "carries CC BY 4.0, which its uploader chose (not verified)."
        ),
        terms_url="https://github.com/cv516Buaa/MMOTU_DS2Net#readme",
        redistribution="not stated",
        doi="10.48550/arXiv.2207.06799",
        bibtex=(ZHAO_2022,),
        limits=(
            "No patients are named. The images of normal ovaries outline the ovary, and some images hold several "
            "views, text and calipers."
        ),
    ),
}
