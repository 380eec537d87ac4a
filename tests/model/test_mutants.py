"""The mutants of hack/mutants still fit the code. That the suite kills them takes too long to show here."""

import pytest

from hack.mutating import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_still_applies(mutant: Mutant) -> None:
    text = mutant.applied_to(ROOT)
    compile(text, mutant.file, "exec")


def test_mutants_have_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15
