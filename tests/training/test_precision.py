"""bf16 where the processor is slow in it: a preset's gives way and says so, one's own stays and is warned of."""

import pytest

from training import precision
from training.config import load

PRESET = "bert-small"


@pytest.fixture
def asked(monkeypatch, capsys):
    """`asked(times, source, values)`: (precision that is used, what is said) where bf16 takes so many times as long."""

    def ask(times, source, values=None, gpu=False):
        monkeypatch.setattr(precision, "slowdown", lambda: times)
        monkeypatch.setattr(precision.torch.accelerator, "is_available", lambda: gpu)
        config = precision.affordable(load(source, values))
        return config.training.precision, capsys.readouterr().err

    return ask


def test_a_presets_bf16_gives_way(asked, tmp_path):
    used, said = asked(80.4, PRESET, {"seed": "3"})
    assert used == "no"
    assert "80 times as long as in float32" in said
    assert "precision = no in place of the preset's bf16" in said
    own = tmp_path / "own.toml"
    own.write_text(f'base = "{PRESET}"\nseed = 1\n')
    assert asked(80.4, str(own))[0] == "no"


def test_ones_own_stays_with_a_warning(asked, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(f'base = "{PRESET}"\nprecision = "bf16"\n')
    for source, values in ((str(own), None), (PRESET, {"precision": "bf16"})):
        used, said = asked(80.4, source, values)
        assert used == "bf16"
        assert said.strip().endswith("80 times as long as in float32 on this processor: precision = no is quicker")


def test_nothing_is_said_where_it_is_quick_or_there_is_a_gpu_or_it_is_not_asked_for(asked):
    assert asked(0.6, PRESET) == ("bf16", "")
    assert asked(80.4, PRESET, gpu=True) == ("bf16", "")
    assert asked(80.4, PRESET, {"precision": "no"}) == ("no", "")


def test_it_is_measured():
    assert 0.01 < precision.slowdown.__wrapped__() < 1e5
