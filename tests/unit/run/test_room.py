from __future__ import annotations

import pytest

from tunebook_run.room import share_out
from tunebook_spec.errors import InputError

HOSTS = [{"CPU": 8.0, "memory": 1e9}, {"CPU": 16.0}, {"CPU": 2.0, "node:10.0.0.1": 1.0}]


@pytest.mark.parametrize(("num_engines", "cores"), [(1, 16), (2, 8), (3, 8), (4, 5), (12, 2), (26, 1)])
def test_engines_get_as_many_cores_as_all_of_them_can_have(num_engines: int, cores: int) -> None:
    assert share_out(HOSTS, num_engines) == {"CPU": cores}


def test_what_is_set_is_taken() -> None:
    assert share_out([], 3, cores=4) == {"CPU": 4}


def test_gpus_are_taken_where_there_are_some_and_never_cores_in_their_place() -> None:
    gpus = [{"CPU": 8.0}, {"CPU": 64.0, "GPU": 2.0}]
    assert share_out(gpus, 2, cores=4) == {"GPU": 1}
    with pytest.raises(InputError, match="has 2 GPUs, and 3 engines need one each"):
        share_out(gpus, 3)


def test_too_many_engines_are_refused() -> None:
    with pytest.raises(InputError, match="has 26 cores, and 27 engines need one each"):
        share_out(HOSTS, 27)
