"""Automatic choice: what was timed decides, once for each kind of input, and says so."""

import pytest
import torch

from mmseg_tome.models import auto_merging

SIZE = (96, 128)


@pytest.fixture
def clock(monkeypatch):
    """Give every step the time that is set for its kind: matching, reusing, plain."""
    times = dict(match=1.0, again=1.0, plain=1.0, calls=0)

    def seconds(step, device):
        step()
        kind = ("match", "again", "plain")[times["calls"] % 3]
        times["calls"] += 1
        return times[kind]

    monkeypatch.setattr(auto_merging, "seconds", seconds)
    return times


def outputs(model, image):
    with torch.inference_mode():
        return model(image)


@pytest.mark.parametrize("merging_is_faster", [True, False])
@pytest.mark.parametrize("preset", ["hq", "n2d", "fast-turbo"])
def test_the_faster_way_is_taken(tiny, clock, merging_is_faster, preset):
    clock["plain"] = 1.5 if merging_is_faster else 0.5
    model = tiny(tome_cfg=f"{preset}-auto")
    other = tiny(tome_cfg=preset if merging_is_faster else None)
    other.load_state_dict(model.state_dict())
    image = torch.randn(2, 3, *SIZE)
    for out, expected in zip(outputs(model, image), outputs(other, image), strict=True):
        assert torch.equal(out, expected)


def test_reused_maps_are_counted_with_their_own_time(tiny, clock):
    """Stage 3 has three blocks: with reuse of 2, two match and one merges again."""
    clock.update(match=1.4, again=0.1, plain=1.0)
    model = tiny(tome_cfg=dict(auto=[dict(q=dict(mode="n2d", stride=(2, 2)), reuse=2)] * 4))
    outputs(model, torch.randn(1, 3, *SIZE))
    by_stage = {key[0]: decision for key, decision in model.auto.decisions.items()}
    assert by_stage[2] == (True, pytest.approx(2 * 1.4 + 0.1), pytest.approx(3.0))
    assert by_stage[0] == (True, pytest.approx(1.4 + 0.1), pytest.approx(2.0))


def test_a_gain_within_the_scatter_of_timings_is_none(tiny, clock):
    clock.update(match=0.99, again=0.99)
    model = tiny(tome_cfg="hq-auto")
    outputs(model, torch.randn(1, 3, *SIZE))
    assert not any(decision.merges for decision in model.auto.decisions.values())


def test_each_kind_of_input_is_decided_once_and_logged(tiny, clock, monkeypatch):
    said = []
    monkeypatch.setattr(auto_merging, "print_log", lambda message, _logger: said.append(message))
    model = tiny(tome_cfg="hq-auto")
    image = torch.randn(1, 3, *SIZE)
    for _ in range(3):
        outputs(model, image)
    assert len(model.auto.decisions) == 4
    assert len(said) == 4
    assert said[2] == (
        "auto merging: stage 3, 6x8 tokens, batch 1, float32, cpu: does not merge "
        "(3000.00 ms merged, 3000.00 ms without)"
    )
    outputs(model, torch.randn(2, 3, *SIZE))
    outputs(model.double(), image.double())
    model.float().train()(image)
    assert len(model.auto.decisions) == 16


def test_timing_leaves_training_as_it_was(tiny):
    """No gradient, no random number and no mode changes."""
    model = tiny(tome_cfg="hq-auto", drop_path_rate=0.5, drop_rate=0.1).train()
    image = torch.randn(2, 3, *SIZE)
    found = []
    for _ in range(2):  # the second pass is not timed
        model.zero_grad()
        torch.manual_seed(5)
        sum(out.sum() for out in model(image)).backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(module.training for module in model.modules())
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("decided", [True, False])
def test_a_compiled_model_does_as_was_decided_before_and_merges_otherwise(tiny, clock, decided):
    model, image = tiny(tome_cfg="hq-auto"), torch.randn(1, 3, *SIZE)
    merged = tiny(tome_cfg=None if decided else "hq")
    merged.load_state_dict(model.state_dict())
    if decided:
        outputs(model, image)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for out, expected in zip(outputs(compiled, image), outputs(merged, image), strict=True):
        torch.testing.assert_close(out, expected)


def test_what_will_be_captured_is_decided_for_itself(tiny, clock):
    """Launches count in an eager pass and not in a graph's replay."""
    model, image = tiny(tome_cfg="hq-auto"), torch.randn(1, 3, *SIZE)
    clock["plain"] = 0.5
    outputs(model, image)
    clock["plain"] = 1.5
    with auto_merging.before_capture():
        outputs(model, image)
    eager, captured = (
        {d.merges for key, d in model.auto.decisions.items() if key[-1] is wanted}
        for wanted in (False, True)
    )
    assert (eager, captured) == ({False}, {True})


def test_a_real_timing_decides(tiny):
    model = tiny(tome_cfg="fast-auto")
    outputs(model, torch.randn(1, 3, *SIZE))
    for decision in model.auto.decisions.values():
        assert decision.merged > 0
        assert decision.merges == (decision.merged < auto_merging.MARGIN * decision.unmerged)


def test_published_presets_decide_nothing(tiny):
    assert tiny(tome_cfg="hq").auto is None
