"""Students and teachers that are linear in their targets: exact errors.

Ridge and kernel ridge regression predict S y with a matrix S that the targets y do not change, and
so does a student fitted to a mixture of targets and of such a teacher's predictions. The expected
squared error is then (S f - f)² + noise² · sum of S², with f the truth: no draw is needed.
"""

from typing import NamedTuple

import numpy as np

from kdlib.evidence.ridge import EXAMPLES, average, r_squared

EDGE, WIDTH = 0.8, 0.05  # where the minority's inputs begin; of the kernel


def smoother(at, kernel, penalty):
    """(M, n): kernel ridge predictions at M inputs, as a matrix to multiply n targets with.

    at: (M, n) kernel between these inputs and the n of training; kernel: (n, n) between those."""
    n = len(kernel)
    return np.linalg.solve(kernel + n * penalty * np.eye(n), at.T).T


def distilled(at, kernel, penalty, teacher_penalty, weights):
    """(M, n): the same of a student of a teacher that is fitted to the same targets.

    weights: (n,) of the teacher, in the target of each example."""
    kept = np.diag(1 - weights)
    return smoother(at, kernel, penalty) @ (
        kept + weights[:, None] * smoother(kernel, kernel, teacher_penalty)
    )


def moments(matrix, truth, noise):
    """(mean, standard deviation) of the predictions, each (M,), over the noise of the targets."""
    return matrix @ truth, noise * np.sqrt((matrix**2).sum(1))


# ---------------------------------------------------------------- an example on a line


class Line(NamedTuple):
    """n examples on [0, 1], the minority's beyond EDGE, and M inputs to test on."""

    inputs: np.ndarray  # (n,)
    rare: np.ndarray  # (n,) whether an example is the minority's
    tests: np.ndarray  # (M,)
    kernel: np.ndarray  # (n, n)
    at: np.ndarray  # (M, n)

    def errors(self, matrix, noise):
        """Expected squared errors (majority, minority): means over the test inputs of each."""
        mean, deviation = moments(matrix, truth(self.inputs), noise)
        error = (mean - truth(self.tests)) ** 2 + deviation**2
        return self._of_groups(error)

    def _of_groups(self, error):
        """(majority's, minority's): means of errors (..., M) over the test inputs of each."""
        rare = self.tests >= EDGE
        return error[..., ~rare].mean(-1), error[..., rare].mean(-1)

    def average(self, setting):
        """The average error (...) of a student; fields of the Setting are numbers or arrays."""
        n = len(self.inputs)
        values, vectors = np.linalg.eigh(self.kernel)
        penalty, teacher_penalty, alpha = (
            np.asarray(value)[..., None]
            for value in (setting.penalty, setting.teacher_penalty, setting.alpha)
        )
        taken = n * teacher_penalty / (values + n * teacher_penalty)
        left = (1 - alpha * taken) / (values + n * penalty)
        basis = self.at @ vectors
        bias = (left * (vectors.T @ truth(self.inputs))) @ basis.T - truth(self.tests)
        error = bias**2 + setting.noise**2 * (left**2 @ (basis**2).T)
        return average(setting, self._of_groups(error))

    def reliability(self, matrix, noise):
        """ridge.r_squared (majority's, minority's)."""
        rare = self.tests >= EDGE
        values = truth(self.tests)
        signals = np.array([values[~rare].var(), values[rare].var()])
        return tuple(r_squared(signals, self.errors(matrix, noise), noise))


def truth(inputs):
    """The function to learn: a slow wave for the majority, a narrow hill for the minority."""
    hill = 1.5 * np.exp(-0.5 * ((inputs - (1 + EDGE) / 2) / 0.035) ** 2)
    return np.where(inputs < EDGE, 0.5 * np.sin(2 * np.pi * inputs / EDGE), hill)


def line(share):
    """The Line on which the minority has this share of the examples."""
    rare = round(EXAMPLES * share)
    inputs = np.concatenate([_spread(0, EDGE, EXAMPLES - rare), _spread(EDGE, 1, rare)])
    tests = np.concatenate([_spread(0, EDGE, 160), _spread(EDGE, 1, 80)])

    def kernel(points):
        return np.exp(-0.5 * ((points[:, None] - inputs) / WIDTH) ** 2)

    return Line(inputs, inputs >= EDGE, tests, kernel(inputs), kernel(tests))


def _spread(low, high, number):
    """Points in the middle of as many equal parts of an interval."""
    return low + (high - low) * (np.arange(number) + 0.5) / number
