"""A sample of the cases of a data set for a quick look (`sample_cases`): the same at every call, on every machine.

Cases are taken in turns from the targets, and of each target in turns from the patients (the images where patients are
not known). The order of patients and images follows from a hash of their names, so that a larger sample holds the
smaller one, and the targets of one image are taken together.
"""

import hashlib
from collections.abc import Iterator, Sequence

from ..data.cases import Case


def sample_cases(cases: Sequence[Case], limit: int, seed: int = 0) -> tuple[list[Case], int]:
    """Up to `limit` cases with an object.

    Args:
        cases: to choose from; masks are read in the order of the choice, and no more of them than needed.
        limit: at least 1.
        seed: of the order.

    Returns:
        The cases in the order in which they came, and the number of cases without an object that were met.

    Raises:
        ValueError: the limit is below 1.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; expected at least 1 case, or no limit for all")
    order = range(len(cases)) if limit >= len(cases) else order_of_choice(cases, seed)
    chosen, without = [], 0
    for index in order:
        if cases[index].mask.any():
            chosen.append(index)
        else:
            without += 1
        if len(chosen) == limit:
            break
    return [cases[index] for index in sorted(chosen)], without


def order_of_choice(cases: Sequence[Case], seed: int) -> Iterator[int]:
    """Indices of the cases: one of each target in turns, of different patients as long as there are any."""
    by_target: dict[str, dict[str, list[tuple[str, int]]]] = {}
    for index, case in enumerate(cases):
        group = f"{case.dataset}/{case.patient_id or case.name}"
        rank = hash_of(seed, f"{case.dataset}/{case.name}")
        by_target.setdefault(case.target, {}).setdefault(hash_of(seed, group), []).append((rank, index))
    queues = []
    for _, groups in sorted(by_target.items()):
        places = [
            (place, group, index) for group, mine in groups.items() for place, (_, index) in enumerate(sorted(mine))
        ]
        queues.append([index for _, _, index in sorted(places)])
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def hash_of(seed: int, name: str) -> str:
    """What decides the place of a name in the order."""
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()
