"""A twin runs where it was asked for, and nowhere else."""

import threading

import pytest

from mmseg_tome.ops.twins import replaceable, replaced


@replaceable
def name():
    return "itself"


class Owner:
    @replaceable
    def name(self):
        return "itself", self


def test_a_twin_runs_within_the_context_alone():
    with replaced({name: lambda: "twin"}):
        with replaced({name: lambda: "inner"}):
            assert name() == "inner"
        assert name() == "twin"
    assert name() == "itself"


def test_a_method_has_a_twin_with_its_object():
    owner = Owner()
    with replaced({Owner.name: lambda self: ("twin", self)}):
        assert owner.name() == ("twin", owner)
    assert owner.name() == ("itself", owner)


def test_an_error_ends_the_context():
    with pytest.raises(KeyError), replaced({name: lambda: "twin"}):
        raise KeyError
    assert name() == "itself"


def test_other_threads_see_no_twin():
    heard = []
    with replaced({name: lambda: "twin"}):
        thread = threading.Thread(target=lambda: heard.append(name()))
        thread.start()
        thread.join()
        heard.append(name())
    assert heard == ["itself", "twin"]
