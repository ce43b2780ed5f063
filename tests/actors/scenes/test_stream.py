"""The training stream: replayable, and blind to held-out pairs."""

from actors.scenes.grammar import is_held_out
from actors.scenes.stream import draw_pictures, draw_scenes, step_rng


def test_a_step_sees_the_same_batch_again() -> None:
    first, again, other = (draw_pictures(step_rng(0, "vae", step), 4) for step in (7, 7, 8))
    assert first.scenes == again.scenes != other.scenes
    assert (first.pictures == again.pictures).all()
    assert (first.masks == again.masks).all()


def test_phases_and_seeds_see_different_streams() -> None:
    streams = [
        draw_scenes(step_rng(seed, phase, 0), 8)
        for seed, phase in ((0, "vae"), (0, "unet"), (1, "vae"))
    ]
    assert streams[0] != streams[1]
    assert streams[0] != streams[2]


def test_no_held_out_pair_in_the_stream_of_any_phase() -> None:
    for phase in ("vae", "text", "vision", "mllm", "decoder", "unet", "latents", "round trips"):
        for step in range(40):
            assert not any(map(is_held_out, draw_scenes(step_rng(0, phase, step), 32)))
