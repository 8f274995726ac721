"""The clinic of lesson 10: every patient is sick in the figure it should be, and its cure trains."""

import re

import pytest

from gradients_in_depth import checks
from gradients_in_depth.checks import ward

NUMBERS = list(ward._WARD)
SICK = [n for n in NUMBERS if ward._WARD[n][1] != "healthy"]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_first_finding_is_the_disease_of_the_patient(number):
    patient = checks.clinic(number)
    found = [finding.disease for finding in patient.diagnosis().findings]
    assert (found or ["healthy"])[0] == patient._disease


def test_sixteen_patients_have_sixteen_diseases_and_one_of_them_none():
    names = [ward._WARD[n][1] for n in NUMBERS]
    assert len(names) == len(set(names)) == len(checks.DIAGNOSES) == 16
    assert "healthy" in names


@pytest.mark.parametrize("number", NUMBERS)
def test_the_right_name_is_accepted_and_every_wrong_one_refused_with_a_number(number, capsys):
    patient = checks.clinic(number)
    found = patient.diagnosis()
    patient.diagnosis = lambda: found  # once is enough
    for name in checks.DIAGNOSES:
        patient.name(name)
        said = capsys.readouterr().out
        if name == patient._disease:
            assert said.startswith("Right")
        else:
            assert said.startswith("Look again")
            assert re.search(r"\d", said), name
            titles = checks.DIAGNOSES[patient._disease]
            assert titles not in said  # never the answer


def test_no_answer_yet_is_met_kindly(capsys):
    patient = checks.clinic(3)
    patient.name(None)
    assert patient.treat(None) is None
    said = capsys.readouterr().out
    assert "No name yet" in said
    assert "No cure yet" in said


def test_one_number_and_seed_give_one_network():
    first, second = (checks.clinic(2, seed=5).model.state_dict() for _ in range(2))
    other = checks.clinic(2, seed=6).model.state_dict()
    assert all((first[name] == second[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize("number", [0, 17, 2.5, "three"])
def test_a_wrong_number_is_refused_in_one_sentence(number):
    with pytest.raises((ValueError, TypeError), match="number must"):
        checks.clinic(number)


def test_names_and_cures_that_do_not_exist_are_refused():
    patient = checks.clinic(3)
    with pytest.raises(ValueError, match="disease must be"):
        patient.name("flu")
    with pytest.raises(ValueError, match="cure must be"):
        patient.treat("tea")


@pytest.mark.slow
@pytest.mark.parametrize("number", SICK)
def test_the_cure_trains_and_the_untreated_does_not(number):
    # Chance is 0.1 on the digits, 0.25 on the sequences.
    patient = checks.clinic(number)
    untreated = patient.outcome("nothing")
    for cure in patient._cures:
        assert patient.outcome(cure) > max(0.7, untreated + 0.2), cure
    assert untreated < 0.65


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_post_norm_is_cured_by_warm_up_or_the_place_of_the_norm_and_not_by_clipping(seed):
    patient = checks.clinic(15, seed)
    untreated = patient.outcome("nothing")
    assert untreated < 0.6
    for cure in ("warm-up", "norm before each branch"):
        assert patient.outcome(cure) > max(0.7, untreated + 0.2), cure
    assert patient.outcome("clip the gradient") < 0.65


@pytest.mark.slow
def test_a_treatment_draws_the_losses_of_all_that_were_trained_each_at_its_rate(capsys):
    ax = checks.clinic(5).treat("critical random weights", "clip the gradient")
    assert capsys.readouterr().out.count("Patient 5") == 2
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels[0] == "untreated (diverges at each rate)"
    assert re.fullmatch(r"critical random weights \(rate 0\.0*1\)", labels[1])
    assert ax.get_ylim()[1] < 5


@pytest.mark.slow
def test_the_healthy_one_trains_as_it_is():
    assert checks.clinic(16).outcome("nothing") > 0.7


@pytest.mark.slow
def test_a_wrong_cure_is_tried_and_its_outcome_told(capsys):
    checks.clinic(7).treat("clip the gradient")
    said = capsys.readouterr().out
    assert "untreated" in said
    assert "not a cure" in said
    assert said.count("%") == 2
