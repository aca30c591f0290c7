"""What of a cluster's hosts one engine gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunebook_spec.errors import InputError


def share_out(
    hosts: Sequence[Mapping[str, float]], num_engines: int, cores: int | None = None
) -> dict[str, int]:
    """The resources of each: a GPU, where there are some, or cores, as many as all of them can have.

    Args:
        hosts: what each has, by Ray's names.
        num_engines: that are to have room.
        cores: of each engine; None: the hosts' are shared out.

    Raises:
        InputError: there is no room.
    """
    gpus = sum(int(each.get("GPU", 0)) for each in hosts)
    if gpus:
        if gpus < num_engines:
            raise InputError(f"the Ray cluster has {gpus} GPUs, and {num_engines} engines need one each")
        return {"GPU": 1}
    if cores is not None:
        return {"CPU": cores}
    known = [int(each.get("CPU", 0)) for each in hosts]
    for share in range(max(known, default=0), 0, -1):
        if sum(each // share for each in known) >= num_engines:
            return {"CPU": share}
    raise InputError(
        f"the Ray cluster has {sum(known)} cores, and {num_engines} engines need one each; where hosts come"
        " when they are needed, set TUNEBOOK_CPUS_PER_WORKER"
    )
