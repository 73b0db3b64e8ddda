"""A progress bar of an audit that takes long, in a terminal where tqdm is installed."""

import contextlib

from kdlib.auditing.numbers import PARTS

DELAY = 3  # seconds before anything is shown


@contextlib.contextmanager
def bar(students=0):
    """A function to call with the name of each part of `numbers` when it begins.

    students: how many are compared, each with the baseline and with every other.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:  # the light install
        tqdm = None
    if tqdm is None:
        yield None
        return
    looks = "{desc}part {n_fmt} of {total_fmt} |{bar}| {elapsed}"
    how = {"delay": DELAY, "leave": False, "bar_format": looks, "disable": None}  # but in terminals
    how |= {"mininterval": 0, "miniters": 1}  # parts are few
    audits = max(1, students * (students + 1) // 2)
    with tqdm(total=audits * len(PARTS), **how) as shown:

        def begin(part):
            shown.set_description(part, refresh=False)
            shown.update()

        yield begin
