"""A progress bar of an audit that takes long, in a terminal where tqdm is installed."""

import contextlib
from importlib.util import find_spec

from kdlib.auditing.numbers import PARTS

DELAY = 3  # seconds before anything is shown


@contextlib.contextmanager
def bar(students=0):
    """A function to call with the name of each part of `numbers` when it begins.

    students: how many are compared.
    """
    if find_spec("tqdm") is None:  # the light install
        yield None
        return
    from tqdm import tqdm

    looks = "{desc}part {n_fmt} of {total_fmt} |{bar}| {elapsed}"
    how = {"delay": DELAY, "leave": False, "bar_format": looks, "disable": None}  # but in terminals
    how |= {"mininterval": 0, "miniters": 1}  # parts are few
    with tqdm(total=max(1, students) * len(PARTS), **how) as shown:

        def begin(part):
            shown.set_description(part, refresh=False)
            shown.update()

        yield begin
