"""KINDS of damage: function (random.Random, Good to be damaged, another Good) -> what was done.

A Good is a record as faults.py copies it, which says what came of the damage."""

import functools
import hashlib
import io
import json
import math
import os
import zipfile

import numpy as np

from kdlib.study.facts import laid_out, sealed

HUGE = 5 * 2**30  # bytes
UNSHOWN = ("\ud800", "\x1b[31m", "a\nb")  # nowhere to be written, or felt by a terminal
NOT_FINITE = (math.nan, math.inf, -math.inf, 10**400)
# facts that every reader needs, where a record has them
LISTS = ("class_names", "group_names", "train_counts", "teacher_margin_val", "teacher_margin_train")
CURVES = ("curves", "val_accuracy_by_group", "val_accuracy_by_half")
HASHES = ("data_sha256", "teacher_sha256", "weights_sha256", "npz_sha256", "labels_sha256")
OTHERS = ("recipe", "config", "teacher_key", "seconds", "git", "versions")
NEEDED = (*LISTS, *CURVES, *HASHES, *OTHERS)


def anything(rng):
    """A random value as JSON has it, and mostly as no fact does."""
    number = rng.choice([0, -1, 7, 2**63, 0.5, -1e308, *NOT_FINITE])
    text = rng.choice(["", "x", "x" * 100_000, "1", "0" * 64, *UNSHOWN])
    values = rng.choice([[], [[]], [None], [number] * 10, {}, {"a": number}, {"": [text]}])
    return rng.choice([None, True, False, number, number, text, text, values, values])


# ---------------------------------------------------------------- facts of the JSON file


def of_facts(change, seal=lambda facts: facts):
    """Damage by change(rng, facts, another's facts), sealed again or not."""

    def damage(rng, good, other):
        file = good.files["json"]
        facts = json.loads(file.read_text())
        said = change(rng, facts, json.loads(other.files["json"].read_text()))
        file.write_text(laid_out(seal(facts)))
        return said

    return damage


def places(container, key, kinds):
    """(container, key) of a value and of all inside it that are of some types."""
    value = container[key]
    if type(value) in kinds:
        yield container, key
    inside = ()
    if isinstance(value, list):
        inside = range(len(value))
    elif isinstance(value, dict):
        inside = list(value)
    for inner in inside:
        yield from places(value, inner, kinds)


def changed(kinds, new, names=None):
    """The change that puts new(rng, value) in the place of a value of some types in a fact."""

    def change(rng, facts, other):
        some = [name for name in names or facts if name in facts]
        found = {name: list(places(facts, name, kinds)) for name in some}
        name = rng.choice([name for name, of in found.items() if of])
        container, key = rng.choice(found[name])
        was = container[key]
        container[key] = new(rng, was)
        return f"{name}, {key!r}: {json.dumps(was)[:80]} became {json.dumps(container[key])[:80]}"

    return change


def near(rng, was):
    """A number near another, or the same with a wrong digit or sign."""
    text = repr(was)
    at = rng.choice([i for i, letter in enumerate(text) if letter.isdigit()])
    digit = float(f"{text[:at]}{rng.randrange(10)}{text[at + 1 :]}")
    return type(was)(rng.choice([10 * was, was / 10, was + 1, -was, digit]))


def jumbled(rng, was):
    at = rng.randrange(max(1, len(was)))
    return rng.choice([was[:at] + was[at + 1 :], was[: at + 1] + was[at:], was[::-1]])


def misspelt(rng, was):
    at = rng.randrange(len(was) + 1)
    return was[:at] + rng.choice("0a ") + was[at + rng.randrange(2) :]


def fewer(rng, was):
    return dict(rng.sample(list(was.items()), len(was) - 1))


def any_of(values):
    return lambda rng, was: rng.choice(values)


def of_another_kind(rng, was):
    others = [None, True, "", [True], {"a": True}]
    return rng.choice([value for value in others if type(value) is not type(was)])


def removed(rng, facts, other):
    name = rng.choice([name for name in NEEDED if name in facts])
    value = facts.pop(name)
    if rng.random() < 0.5:
        return f"{name} removed"
    facts[f"{name}s"] = value
    return f"{name} renamed"


def replaced(rng, facts, other):
    name = rng.choice(list(facts))
    facts[name] = anything(rng)
    return f"{name} became {json.dumps(facts[name])[:80]}"


def field_replaced(rng, facts, other):
    return replaced(rng, facts["config"], other)


def exchanged(rng, facts, other):
    name = rng.choice([name for name in facts if name in other])
    facts[name] = other[name]
    return f"{name} of another record"


# ---------------------------------------------------------------- bytes of any file


def of_bytes(kind, change):
    """Damage by change(rng, bytes) -> (bytes, what was done) to the file of a kind."""

    def damage(rng, good, other):
        file = good.files[kind]
        content, said = change(rng, file.read_bytes())
        file.write_bytes(content)
        return said

    return damage


def flipped(rng, whole):
    at, bits = rng.randrange(len(whole)), rng.randrange(1, 256)
    return whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :], f"byte {at} xor {bits}"


def cut(rng, whole):
    length = rng.choice([0, 1, rng.randrange(len(whole)), len(whole) - 1])
    return whole[:length], f"cut to {length} of {len(whole)} bytes"


def odd_text(rng, whole):
    fact = json.dumps({rng.choice(list(json.loads(whole))): anything(rng)})[1:].encode()
    texts = {
        f"a second {fact[:60]}": whole.rstrip()[:-1] + b", " + fact,
        "a BOM": b"\xef\xbb\xbf" + whole,
        "UTF-16": whole.decode().encode("utf-16"),
        "not UTF-8": whole.replace(b"e", b"\xe9"),
        "100,000 lists": b"[" * 100_000,
        "100,000 objects": b'{"a":' * 100_000,
        "100,000 lists in a fact": whole.rstrip()[:-1] + b', "a": ' + b"[" * 100_000,
        "a number of 5,000 digits": whole.replace(b": 1,", b": " + b"1" * 5000 + b",", 1),
        **{f"nothing but {value.decode()}": value for value in (b"null", b"[]", b'"config"')},
        "zeros": bytes(len(whole)),
    }
    said = rng.choice(list(texts))
    return texts[said], said


def odd_file(rng, good, other, kinds=("json", "npz")):
    """A folder, a pipe or a huge file in the place of a file."""
    kind = rng.choice(kinds)
    path = good.files[kind]
    things = {
        "a folder": path.mkdir,
        "a FIFO": lambda: os.mkfifo(path),
        "a sparse file of 5 GiB": lambda: path.open("wb").truncate(HUGE),
    }
    said = rng.choice(list(things))
    path.unlink()
    things[said]()
    return f"{kind}: {said}"


def another_file(rng, good, other, kind):
    good.files[kind].write_bytes(other.files[kind].read_bytes())
    return f"{kind} of {other.cfg.key()}"


def pickled(rng, good, other):
    file = good.files["weights"]
    file.write_bytes(f"cos\nmkdir\n(V{file.with_name('ran')}\ntR.".encode())
    return "a pickle that makes a folder when it is read"


# ---------------------------------------------------------------- arrays whose hash is right


def of_arrays(change):
    """Damage by change(rng, name, array) -> (array, what was done).

    The JSON file gets the new hash, and is sealed again."""

    def damage(rng, good, other):
        with np.load(good.files["npz"]) as opened:
            arrays = dict(opened)
        name = rng.choice(list(arrays))
        arrays[name], said = change(rng, name, arrays[name])
        with zipfile.ZipFile(good.files["npz"], "w", zipfile.ZIP_DEFLATED) as archive:
            for member, of in arrays.items():
                archive.writestr(f"{member}.npy", _npy(of))
        facts = json.loads(good.files["json"].read_text())
        facts["npz_sha256"] = hashlib.sha256(good.files["npz"].read_bytes()).hexdigest()
        good.files["json"].write_text(laid_out(sealed(facts)))
        return f"{name}: {said}"

    return damage


def _npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def of_another_shape(rng, name, was):
    kinds = {f"type {kind}": was.astype(kind) for kind in ("f8", "i8", "O", "U")}
    shapes = {"one row less": was[:-1], "one axis more": was[None], "one number": was.flat[0]}
    ways = kinds | shapes
    said = rng.choice(list(ways))
    return np.asarray(ways[said]), said


def beyond(rng, name, was):
    values = [math.nan, math.inf, -math.inf, 0.5] if name.endswith("log_p") else [-1, 120]
    at, value = rng.randrange(len(was)), rng.choice(values)
    was[at] = value
    return was, f"row {at} is {value}"


OF_WEIGHTS = {
    "weights: a byte changed": of_bytes("weights", flipped),
    "weights: cut short or empty": of_bytes("weights", cut),
    "weights: of another run": functools.partial(another_file, kind="weights"),
    "weights: a pickle with code": pickled,
    "weights: a folder, a FIFO, 5 GiB": functools.partial(odd_file, kinds=("weights",)),
}
KINDS = {
    "JSON: a number a little different": of_facts(changed((int, float), near)),
    "JSON: an element dropped or twice, a list reversed": of_facts(changed((list,), jumbled)),
    "JSON: a text changed": of_facts(changed((str,), misspelt)),
    "JSON: a fact removed or renamed": of_facts(removed),
    "JSON: any value in place of a fact": of_facts(replaced),
    "JSON: any value in place of a field of the config": of_facts(field_replaced),
    "JSON: a fact of another record": of_facts(exchanged),
    "JSON: a byte changed": of_bytes("json", flipped),
    "JSON: cut short or empty": of_bytes("json", cut),
    "JSON: a key twice, BOM, UTF-16, 100,000 brackets and the like": of_bytes("json", odd_text),
    "sealed again: a fact removed or renamed": of_facts(removed, sealed),
    "sealed again: a value of another kind": of_facts(
        changed((int, float, str, list, dict), of_another_kind, (*LISTS, *HASHES, *OTHERS)), sealed
    ),
    "sealed again: a list of another length": of_facts(
        changed((list,), lambda rng, was: rng.choice([was[1:], was + was]), (*LISTS, *CURVES)),
        sealed,
    ),
    "sealed again: an entry of a table removed": of_facts(
        changed((dict,), fewer, ("curves", "labels_sha256", "processor")), sealed
    ),
    "sealed again: letters that cannot be shown": of_facts(
        changed((str,), any_of(UNSHOWN), NEEDED), sealed
    ),
    "sealed again: a number that is not finite": of_facts(
        changed((int, float), any_of(NOT_FINITE), (*LISTS, *CURVES, "seconds")), sealed
    ),
    "sealed again: a number out of range": of_facts(
        changed((int, float), any_of((-1, -0.5, 1.5)), (*LISTS, "val_accuracy_by_group")), sealed
    ),
    "sealed again: any value in place of a field of the config": of_facts(field_replaced, sealed),
    "npz: a byte changed": of_bytes("npz", flipped),
    "npz: cut short or empty": of_bytes("npz", cut),
    "npz: of another record": functools.partial(another_file, kind="npz"),
    "npz with its hash: another type or shape": of_arrays(of_another_shape),
    "npz with its hash: a value out of range": of_arrays(beyond),
    "JSON or npz: a folder, a FIFO, 5 GiB": odd_file,
    **OF_WEIGHTS,
}
