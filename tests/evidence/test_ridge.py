"""When distillation must harm: the closed forms against regressions that are solved, drawn and
expanded symbolically."""

from dataclasses import replace

import numpy as np
import pytest
import sympy
from scipy.optimize import minimize_scalar
from sklearn.kernel_ridge import KernelRidge

from kdlib.evidence import ridge, smoothers
from kdlib.evidence.ridge import BOTH, EXAMPLES, ONLY_MAJORITY, ONLY_MINORITY, Setting

RNG = np.random.default_rng(17)
ANY = [
    Setting(
        share=float(RNG.integers(5, 80)) / EXAMPLES,
        noise=float(np.exp(RNG.uniform(-2, 1))),
        penalty=float(np.exp(RNG.uniform(-8, -2))),
        teacher_penalty=float(np.exp(RNG.uniform(-6, 0))),
        alpha=float(RNG.uniform(0.05, 1)),
    )
    for _ in range(8)
]
any_setting = pytest.mark.parametrize("setting", ANY, ids=str)


def change(setting):
    """By how much distillation changes the risks: (majority, minority, average)."""
    both = zip(ridge.risks(setting), ridge.risks(setting, (0, 0)), strict=True)
    two = [after - before for after, before in both]
    return np.array([*two, ridge.average(setting, two)])


# ---------------------------------------------------------------- against solved regressions


def fitted(inputs, penalty):
    """(J, n): ridge weights as a matrix to multiply targets with, by least squares on rows that
    stand for the penalty."""
    n, size = inputs.shape
    rows = np.vstack([inputs / np.sqrt(n), np.sqrt(penalty) * np.eye(size)])
    wanted = np.vstack([np.eye(n) / np.sqrt(n), np.zeros((size, n))])
    return np.linalg.lstsq(rows, wanted, rcond=None)[0]


def design(setting):
    """(inputs (n, J), group (n,) of each example, group (J,) of each input), by Gram-Schmidt."""
    counts = [round(EXAMPLES * float(share)) for _, share in setting.groups]
    of_example = np.repeat([0, 1], counts)
    of_input = np.repeat([0, 1], [len(group.variances) for group, _ in setting.groups])
    inputs = np.zeros((EXAMPLES, len(of_input)))
    for i, (group, _) in enumerate(setting.groups):
        axes, _ = np.linalg.qr(RNG.normal(size=(counts[i], len(group.variances))))
        inputs[np.ix_(of_example == i, of_input == i)] = axes * np.sqrt(counts[i] * group.variances)
    return inputs, of_example, of_input


def solved(setting, weights):
    """(risks of the student, of the teacher), each (majority, minority), from the matrices."""
    inputs, of_example, of_input = design(setting)
    variances = np.concatenate([group.variances for group, _ in setting.groups])
    true = np.sqrt(np.concatenate([group.signals for group, _ in setting.groups]) / variances)
    teacher = fitted(inputs, setting.teacher_penalty)
    a = np.array(weights)[of_example][:, None]
    student = fitted(inputs, setting.penalty) @ (np.diag(1 - a[:, 0]) + a * (inputs @ teacher))
    found = []
    for matrix in (student, teacher):
        bias = matrix @ inputs @ true - true
        error = variances * (bias**2 + setting.noise**2 * (matrix**2).sum(1))
        found.append([error[of_input == i].sum() for i in (0, 1)])
    return found


@any_setting
def test_risks_are_those_of_regressions_solved_by_least_squares(setting):
    for weights in ((setting.alpha, setting.alpha), (0, 0), (0.3, 0.9)):
        student, teacher = solved(setting, weights)
        np.testing.assert_allclose(ridge.risks(setting, weights), student, rtol=1e-8)
        np.testing.assert_allclose(ridge.teacher_risks(setting), teacher, rtol=1e-8)


def drawn(setting, draws=2000):
    """By how much distillation changes the risks in drawn data: (mean, standard error), each (3,).

    Teacher and students are fitted to `draws` draws of the noise; no formula is used."""
    inputs, _, of_input = design(setting)
    variances = np.concatenate([group.variances for group, _ in setting.groups])
    true = np.sqrt(np.concatenate([group.signals for group, _ in setting.groups]) / variances)
    targets = (inputs @ true)[:, None] + setting.noise * RNG.normal(size=(EXAMPLES, draws))
    taught = inputs @ (fitted(inputs, setting.teacher_penalty) @ targets)
    mixed = (1 - setting.alpha) * targets + setting.alpha * taught
    students = (fitted(inputs, setting.penalty) @ wanted for wanted in (mixed, targets))
    after, before = (variances[:, None] * (found - true[:, None]) ** 2 for found in students)
    two = [(after - before)[of_input == i].sum(0) for i in (0, 1)]
    three = np.stack([*two, (1 - setting.share) * two[0] + setting.share * two[1]])
    return three.mean(1), three.std(1, ddof=1) / np.sqrt(draws)


@any_setting
def test_changes_are_those_of_drawn_data(setting):
    mean, error = drawn(setting)
    assert (np.abs(mean - change(setting)) < 4 * error).all()
    assert (error < 0.1 * np.sqrt(np.sum(np.square(ridge.risks(setting))))).all()


def test_r_squared_of_the_teacher_is_that_on_drawn_held_out_targets():
    setting = Setting(share=0.2, noise=0.8, teacher_penalty=0.3)
    inputs, of_example, _ = design(setting)
    variances = np.concatenate([group.variances for group, _ in setting.groups])
    true = np.sqrt(np.concatenate([group.signals for group, _ in setting.groups]) / variances)
    draws = (setting.noise * RNG.normal(size=(EXAMPLES, 4000)) for _ in range(2))
    train, held_out = (inputs @ true[:, None] + noise for noise in draws)
    wrong = held_out - inputs @ fitted(inputs, setting.teacher_penalty) @ train
    for group, expected in enumerate(ridge.reliability(setting)):
        mine = of_example == group
        total = (held_out[mine] ** 2).mean()
        assert 1 - (wrong[mine] ** 2).mean() / total == pytest.approx(expected, abs=0.005)


# ---------------------------------------------------------------- Theorem 1: the limits


@any_setting
@pytest.mark.parametrize("groups", [ONLY_MAJORITY, ONLY_MINORITY, BOTH], ids=str)
def test_a_risk_rises_below_the_limit_of_the_noise_and_falls_above(setting, groups):
    limit, place = ridge.noise_limit(setting, groups), 2 if groups == BOTH else groups[0]
    assert change(replace(setting, noise=limit * 0.999))[place] > 0
    assert change(replace(setting, noise=limit * 1.001))[place] < 0


@any_setting
@pytest.mark.parametrize("groups", [ONLY_MAJORITY, ONLY_MINORITY, BOTH], ids=str)
def test_a_risk_rises_above_the_limit_of_the_weight_and_falls_below(setting, groups):
    limit, place = ridge.weight_limit(setting, groups), 2 if groups == BOTH else groups[0]
    for factor in (0.999, 1.001):
        moved = change(replace(setting, alpha=limit * factor))[place]
        assert (moved > 0) == (factor > 1)
    if limit <= 0:  # then every weight harms
        assert (change(replace(setting, alpha=np.linspace(0.01, 1, 50)))[place] > 0).all()


@any_setting
def test_the_average_falls_and_the_minority_is_harmed_between_the_two_limits_alone(setting):
    majority, minority, both = (
        ridge.noise_limit(setting, groups) for groups in (ONLY_MAJORITY, ONLY_MINORITY, BOTH)
    )
    assert min(majority, minority) < both < max(majority, minority)
    _, harm, average = change(replace(setting, noise=np.geomspace(0.01, 10, 400)))
    inside = (np.geomspace(0.01, 10, 400) > both) & (np.geomspace(0.01, 10, 400) < minority)
    np.testing.assert_array_equal((average < 0) & (harm > 0), inside)
    assert (both < minority) == (majority < minority)


def test_with_equal_groups_neither_is_harmed_while_the_average_falls(monkeypatch):
    monkeypatch.setattr(ridge, "MAJORITY", ridge.MINORITY)
    for setting in ANY:
        setting = replace(setting, share=0.5)
        moved = change(setting)
        np.testing.assert_allclose(moved, moved[0])
        limits = [ridge.noise_limit(setting, groups) for groups in (ONLY_MINORITY, BOTH)]
        assert limits[0] == pytest.approx(limits[1])


@any_setting
def test_without_a_weight_of_the_teacher_a_student_is_one_hot_exactly(setting):
    none = replace(setting, alpha=0.0)
    assert ridge.risks(none) == ridge.risks(setting, (0, 0))
    assert change(none).tolist() == [0, 0, 0]
    line = smoothers.line(setting.share)
    students = smoothers.distilled(line.at, line.kernel, 0.001, 0.01, np.zeros(EXAMPLES))
    one_hot = smoothers.smoother(line.at, line.kernel, 0.001)
    np.testing.assert_allclose(students, one_hot, atol=1e-12)


# ---------------------------------------------------------------- Theorem 2: a weight by group


@any_setting
def test_a_teacher_kept_out_of_the_minority_spares_it_and_keeps_the_gain_of_the_majority(setting):
    kept_out = ridge.risks(setting, (setting.alpha, 0))
    assert kept_out[1] == ridge.risks(setting, (0, 0))[1]
    assert kept_out[0] == ridge.risks(setting)[0]


@any_setting
def test_the_best_weight_by_group_is_the_best_of_a_fine_grid(setting):
    grid = np.linspace(0, 1, 2001)
    of_grid = ridge.risks(setting, (grid, grid))
    for best, risks in zip(ridge.best_weights(setting), of_grid, strict=True):
        assert best == pytest.approx(grid[risks.argmin()], abs=0.001)
    found = ridge.risks(setting, ridge.best_weights(setting))
    assert (np.array(found) <= np.array(ridge.risks(setting, (0, 0))) + 1e-15).all()


@any_setting
def test_as_noise_grows_the_best_weight_does_not_fall_and_adaalphas_does_not_rise(setting):
    grid = replace(setting, noise=np.geomspace(0.01, 10, 200))
    for best, given in zip(ridge.best_weights(grid), ridge.reliability(grid), strict=True):
        assert (np.diff(best) >= -1e-12).all() and (np.diff(given) <= 1e-12).all()
        assert given.min() >= 0 and given.max() <= 1 and given[0] > given[-1]


@any_setting
def test_adaalpha_harms_the_minority_up_to_its_limit_of_the_noise_and_spares_it_above(setting):
    limit = ridge.adaptive_noise_limit(setting)
    assert 0 < limit < 1e3
    for noise, harmed in ((limit * 0.99, True), (limit * 0.5, True), (limit * 1.01, False)):
        at = replace(setting, noise=noise)
        before, after = ridge.risks(at, (0, 0))[1], ridge.risks(at, ridge.reliability(at))[1]
        assert (after > before) == harmed
    several = ridge.adaptive_noise_limit(replace(setting, share=np.array([0.02, setting.share])))
    assert several[1] == limit


# ---------------------------------------------------------------- Theorem 3: a shared direction


def shared_risks(setting, relation, weights):
    """Risks (majority, minority) in the direction of ridge.shared_limits, as the proof has them."""
    shares, true = (1 - setting.share, setting.share), (1.0, relation)
    s = ridge.SHARED / (ridge.SHARED + setting.penalty)
    t = ridge.SHARED / (ridge.SHARED + setting.teacher_penalty)
    common = sum(p * a for p, a in zip(shares, weights, strict=True))
    kept = [1 - a + t * common for a in weights]  # of the least-squares weight of a group
    mean = s * sum(p * k * w for p, k, w in zip(shares, kept, true, strict=True))
    spread = s**2 * sum(p * k**2 for p, k in zip(shares, kept, strict=True))
    spread = spread * setting.noise**2 / (EXAMPLES * ridge.SHARED)
    return tuple(ridge.SHARED * ((w - mean) ** 2 + spread) for w in true)


def test_risks_in_a_shared_direction_are_those_of_regressions_solved_by_least_squares():
    signs = np.tile([1.0, -1.0], EXAMPLES // 2)[:, None]
    inputs = np.sqrt(ridge.SHARED) * signs
    for setting in ANY:
        rare = np.arange(EXAMPLES) >= round(EXAMPLES * (1 - setting.share))
        for relation, weights in ((2.5, (1, 1)), (-1.0, (0.7, 0.2)), (3.0, (0, 0))):
            a = np.where(rare, weights[1], weights[0])[:, None]
            teacher = inputs @ fitted(inputs, setting.teacher_penalty)
            student = fitted(inputs, setting.penalty) @ (np.diag(1 - a[:, 0]) + a * teacher)
            true = np.where(rare, relation, 1.0)
            mean = (student @ (inputs[:, 0] * true)).item()
            spread = setting.noise**2 * (student**2).sum()
            expected = [ridge.SHARED * ((w - mean) ** 2 + spread) for w in (1.0, relation)]
            found = shared_risks(setting, relation, weights)
            np.testing.assert_allclose(found, expected, rtol=1e-8)


@any_setting
@pytest.mark.parametrize("relation", [-1.0, 0.5, 1.5, 3.0, 6.0])
def test_up_to_its_limit_no_weights_lower_a_risk_and_above_it_some_do(setting, relation):
    small = np.r_[0, np.geomspace(1e-6, 1, 40)]
    weights = np.meshgrid(small, small)
    limits = ridge.shared_limits(setting, relation)
    for place, limit in zip((1, 2), limits, strict=True):
        for noise in [limit * 0.99, limit * 1.01] if limit else [0.01, 1.0]:
            at = replace(setting, noise=noise)
            two = shared_risks(at, relation, weights)
            base = shared_risks(at, relation, (0, 0))
            of_three = np.array([*two, ridge.average(at, two)])[place]
            before = np.array([*base, ridge.average(at, base)])[place]
            rest = np.delete(of_three.ravel(), 0)
            assert (rest > before).all() if noise < limit else (rest < before).any()
    assert limits[1] <= limits[0] or relation <= 1  # what the page says of the two lines


# ---------------------------------------------------------------- penalties that are tuned


@any_setting
def test_at_the_best_penalty_of_one_hot_the_sign_of_a_small_weight_is_as_the_page_says(setting):
    def of_penalty(log):
        one = replace(setting, penalty=np.exp(log))
        return ridge.average(one, ridge.risks(one, (0, 0)))

    best = minimize_scalar(of_penalty, bounds=(-12, 2), method="bounded", options={"xatol": 1e-10})
    best = replace(setting, penalty=float(np.exp(best.x)))
    directions = []
    for group, share in best.groups:
        d, tau = share * group.variances, best.noise**2 / (EXAMPLES * share)
        s = d / (d + best.penalty)
        pull = share * s * (tau * s - group.signals * (1 - s)) / (d + best.penalty)
        directions += [*zip(d, pull, strict=True)]
    d, pull = np.array(directions).T
    assert abs(pull.sum()) < 1e-4 * abs(pull).sum()
    for factor in (0.3, 3.0):
        mu = factor * best.penalty
        small = change(replace(best, teacher_penalty=mu, alpha=1e-6))[2]
        slope = 2 * mu * (mu - best.penalty) * (pull / (d + mu)).sum()
        assert small / 1e-6 == pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize("model", ["ridge", "line"])
def test_tuned_settings_are_better_the_more_is_tuned_and_beat_settings_at_random(model):
    for setting in ANY[:4]:
        average_of = (
            ridge.average_risk if model == "ridge" else smoothers.line(setting.share).average
        )
        one_hot, same, own = ridge.tuned(setting, average_of)
        assert one_hot.alpha == 0 and same.penalty == one_hot.penalty
        averages = [average_of(at) for at in (one_hot, same, own)]
        assert averages[0] >= averages[1] >= averages[2]
        others = [replace(at, share=setting.share, noise=setting.noise) for at in ANY]
        assert min(average_of(at) for at in others) >= averages[2] * 0.999
        for at in (same, own):  # no other weight is better beside these penalties
            tried = [average_of(replace(at, alpha=a)) for a in np.linspace(0, 1, 101)]
            assert average_of(at) <= min(tried) * (1 + 1e-9)


@pytest.mark.parametrize("share", [0.02, 0.5])
@pytest.mark.parametrize("noise", [0.01, 10.0])
def test_the_best_penalty_of_one_hot_is_among_those_that_are_tried(share, noise):
    def of_penalty(log):
        one = replace(Setting(share=share, noise=noise), penalty=np.exp(log))
        return ridge.average(one, ridge.risks(one, (0, 0)))

    one_hot, _, own = ridge.tuned(Setting(share=share, noise=noise))
    best = minimize_scalar(of_penalty, bounds=(-25, 10), method="bounded", options={"xatol": 1e-9})
    assert one_hot.penalty == pytest.approx(np.exp(best.x), rel=0.04)
    for found in (one_hot.penalty, own.penalty):
        assert ridge.PENALTIES[0] < found < ridge.PENALTIES[-1]


# ---------------------------------------------------------------- steps of the proofs, symbolically

S, C, Q, TAU, U, A, P = sympy.symbols("s c q tau u alpha p", positive=True)


def risk(left):
    return Q * (1 - left) ** 2 + TAU * left**2


def test_step_3_splits_the_change_into_bias_added_and_variance_saved():
    split = (S - C) * ((2 - S - C) * Q - (S + C) * TAU)
    assert sympy.expand(risk(C) - risk(S) - split) == 0


def test_the_zeros_of_the_change_in_the_weight_are_0_and_the_limit():
    zeros = sympy.solve(risk(S * (1 - A * U)) - risk(S), A)
    limit = 2 * ((Q + TAU) * S - Q) / ((Q + TAU) * S * U)
    assert [sympy.simplify(zero - limit) for zero in zeros] == [0]  # alpha = 0 is not positive


def test_the_limit_of_the_weight_never_falls_with_the_noise():
    """tau E - F over tau G + H has a derivative of the sign of E H + F G."""
    e, f, g, h = sympy.symbols("E F G H", positive=True)
    slope = sympy.diff((TAU * e - f) / (TAU * g + h), TAU)
    assert sympy.simplify(slope * (TAU * g + h) ** 2 - (e * h + f * g)) == 0
    expanded = sympy.expand(S * U * ((Q + TAU) * S - Q))
    assert sympy.expand(expanded - (TAU * S**2 * U - S * U * Q * (1 - S))) == 0


def test_theorem_3_has_the_derivatives_of_the_risk_at_no_weights():
    t, v, sigma, one, two, w = sympy.symbols("t v sigma w_1 w_2 w", real=True)
    shares, true, weights = (1 - P, P), (one, two), sympy.symbols("a_1 a_2")
    common = sum(p * a for p, a in zip(shares, weights, strict=True))
    kept = [1 - a + t * common for a in weights]
    mean = S * sum(p * k * x for p, k, x in zip(shares, kept, true, strict=True))
    spread = S**2 * sigma**2 / v * sum(p * k**2 for p, k in zip(shares, kept, strict=True))
    of_all = sum(p * x for p, x in zip(shares, true, strict=True))
    for share, own, weight in zip(shares, true, weights, strict=True):
        slope = sympy.diff(v * ((w - mean) ** 2 + spread), weight).subs(dict.fromkeys(weights, 0))
        gap = (w - S * of_all) * (own - t * of_all) - S * (1 - t) * sigma**2 / v
        assert sympy.expand(slope - 2 * v * S * share * gap) == 0


def test_the_average_limit_is_a_weighted_mean_of_those_of_the_groups():
    n, p, m, q, d, e = sympy.symbols("n p N_1 N_2 D_1 D_2", positive=True)
    limits = n * p * m / d, n * (1 - p) * q / e
    mean = (d * limits[0] + e * limits[1]) / (d + e)
    assert sympy.simplify(mean - n * (p * m + (1 - p) * q) / (d + e)) == 0


D, LAM, MU, VAR, N = sympy.symbols("d lambda mu v n", positive=True)


def test_scarcity_alone_gives_such_noise_only_below_a_teachers_penalty():
    one_hot = D / (D + LAM)
    student = one_hot * (1 - A * MU / (D + MU))
    limit = N * D / VAR * Q * (2 - one_hot - student) / (one_hot + student)
    said = N * Q / VAR * ((A * MU + 2 * LAM) * D + 2 * LAM * MU) / (2 * D + (2 - A) * MU)
    assert sympy.simplify(limit - said) == 0
    slope = sympy.factor(sympy.diff(said, D) * (2 * D + (2 - A) * MU) ** 2)
    rest = sympy.simplify(slope / ((2 - A) * MU - 2 * LAM))
    assert sympy.simplify(rest - N * Q * A * MU / VAR) == 0  # positive


@pytest.mark.parametrize("teacher_penalty", [0.0005, 0.003, 0.05])
def test_groups_that_differ_in_their_shares_alone(monkeypatch, teacher_penalty):
    monkeypatch.setattr(ridge, "MAJORITY", ridge.MINORITY)
    for setting in ANY:
        at = replace(setting, penalty=0.001, teacher_penalty=teacher_penalty)
        exists = ridge.noise_limit(at, ONLY_MAJORITY) < ridge.noise_limit(at, ONLY_MINORITY)
        assert exists == ((2 - at.alpha) * teacher_penalty < 2 * at.penalty)


# ---------------------------------------------------------------- kernel ridge


@any_setting
def test_the_average_on_the_line_is_that_of_its_matrices(setting):
    line = smoothers.line(setting.share)
    weights = np.full(EXAMPLES, setting.alpha)
    penalties = setting.penalty, setting.teacher_penalty
    matrix = smoothers.distilled(line.at, line.kernel, *penalties, weights)
    expected = ridge.average(setting, line.errors(matrix, setting.noise))
    assert line.average(setting) == pytest.approx(expected, rel=1e-6)
    grid = replace(setting, penalty=np.array([[setting.penalty], [0.1]]), alpha=np.zeros(3))
    assert line.average(grid).shape == (2, 3)


def test_a_student_in_kernel_ridge_is_fitted_to_targets_and_to_the_predictions_of_the_teacher():
    line = smoothers.line(0.1)
    targets = RNG.normal(size=(EXAMPLES, 3))
    weights = np.where(line.rare, 0.2, 0.9)
    teacher = KernelRidge(alpha=EXAMPLES * 0.02, kernel="precomputed").fit(line.kernel, targets)
    mixed = (1 - weights[:, None]) * targets + weights[:, None] * teacher.predict(line.kernel)
    student = KernelRidge(alpha=EXAMPLES * 0.001, kernel="precomputed").fit(line.kernel, mixed)
    found = smoothers.distilled(line.at, line.kernel, 0.001, 0.02, weights) @ targets
    np.testing.assert_allclose(found, student.predict(line.at), atol=1e-8)


def test_exact_errors_on_the_line_are_those_of_drawn_targets():
    line, noise = smoothers.line(0.05), 0.7
    matrix = smoothers.distilled(line.at, line.kernel, 0.0005, 0.01, np.full(EXAMPLES, 0.8))
    drawn = smoothers.truth(line.inputs)[:, None] + noise * RNG.normal(size=(EXAMPLES, 3000))
    squares = (matrix @ drawn - smoothers.truth(line.tests)[:, None]) ** 2
    rare = line.tests >= smoothers.EDGE
    for exact, mine in zip(line.errors(matrix, noise), (~rare, rare), strict=True):
        of_draws = squares[mine].mean(0)
        assert abs(of_draws.mean() - exact) < 4 * of_draws.std() / np.sqrt(len(of_draws))
    assert line.rare.sum() == 10 and (line.rare == (line.inputs >= smoothers.EDGE)).all()
