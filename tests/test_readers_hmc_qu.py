"""Frames of cine loops keep their numbers where a recorder dropped some."""

import numpy as np
import pytest

from ccsam_hf.data.readers.hmc_qu import LoopFrame, place_of

SIZE = (64, 80)


@pytest.mark.parametrize(
    "times, places",
    [
        ([0, 1, 2, 3], {0: 0, 3: 3}),
        ([0, 2, 4, 10, 12], {2: 2, 3: 2, 4: 2, 5: 3, 6: 4}),  # frames 3 and 4 were dropped
        ([4, 0, 2], {0: 0, 1: 1, 2: 2}),  # in the order of decoding
        ([0, 33, 67, 100], {2: 2}),  # rounded times are counted
        ([None, 1], {1: 1}),
    ],
)
def test_the_place_of_a_frame_follows_from_presentation_times(times, places):
    assert {number: place_of(number, times) for number in places} == places


def test_a_loop_with_dropped_frames_gives_later_frames_under_their_own_numbers(tmp_path):
    av = pytest.importorskip("av", reason="cine loops need PyAV")
    path = tmp_path / "loop.avi"
    shown = [0, 1, 2, 5, 6]
    with av.open(str(path), "w") as loop:
        stream = loop.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuvj420p"
        for number in shown:
            grey = np.full((*SIZE, 3), 20 + 30 * number, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24")
            frame.pts = number
            loop.mux(stream.encode(frame))
        loop.mux(stream.encode())
    levels = [float(LoopFrame(path, number, SIZE).read().mean()) for number in range(7)]
    assert np.allclose(levels, [20, 50, 80, 80, 80, 170, 200], atol=4)
