"""KINDS of damage to a record: function (random.Random, Good to be damaged, another Good) -> words.

See faults.py, which says what came of it."""

import functools
import hashlib
import json
import math
import os
import pickle
import zipfile

import numpy as np

from kdlib.study import records

HUGE = 5 * 2**30  # bytes
# facts that every reader needs, where a record has them
LISTS = ("class_names", "group_names", "train_counts", "teacher_margin_val", "teacher_margin_train")
CURVES = ("curves", "val_accuracy_by_group")
HASHES = ("data_sha256", "teacher_sha256", "weights_sha256", "npz_sha256", "labels_sha256")
NEEDED = (*LISTS, *CURVES, *HASHES, "recipe", "config", "teacher_key", "seconds", "git", "versions")


def anything(rng):
    """A random JSON value, mostly one that nobody expects."""
    number = rng.choice([0, -1, 7, 2**63, 10**400, 0.5, -1e308, math.nan, math.inf, -math.inf])
    text = rng.choice(["", "x", "x" * 100_000, "a\nb\x1b[31m", "\ud800", "1", "0" * 64])
    values = rng.choice([[], [[]], [None], [number] * 10, {}, {"a": number}, {"": [text]}])
    return rng.choice([None, True, False, number, number, text, text, values, values])


# ---------------------------------------------------------------- facts of the JSON file


def sealed(facts):
    """The facts with the seal that belongs to them, as a mistaken program would write them."""
    plain = {name: value for name, value in facts.items() if name != "sha256"}
    return records.sealed(plain) if hasattr(records, "sealed") else plain


def of_facts(change, seal=lambda facts: facts):
    """Damage by change(rng, facts, another's facts), which says what it did."""

    def damage(rng, good, other):
        file = good.files["json"]
        facts = json.loads(file.read_text())
        said = change(rng, facts, json.loads(other.files["json"].read_text()))
        file.write_text(json.dumps(seal(facts), indent=1))
        return said

    return damage


def places(container, key):
    """(container, key) of a value and of all inside it."""
    yield container, key
    value = container[key]
    inside = ()
    if isinstance(value, dict):
        inside = list(value)
    elif isinstance(value, list):
        inside = range(len(value))
    for inner in inside:
        yield from places(value, inner)


def put(rng, facts, kinds, new, names=NEEDED):
    """Put new(old value) in the place of a value of some types; its fact is any of `names`."""
    found = {name: list(places(facts, name)) for name in facts if name in names}
    found = {name: [(c, k) for c, k in of if type(c[k]) in kinds] for name, of in found.items()}
    name = rng.choice([name for name, of in found.items() if of])
    container, key = rng.choice(found[name])
    was = container[key]
    container[key] = new(was)
    return f"{name}, {key!r}: {json.dumps(was)[:80]} became {json.dumps(container[key])[:80]}"


def number_changed(rng, facts, other):
    def new(was):
        text = repr(was)
        at = rng.choice([i for i, letter in enumerate(text) if letter.isdigit()])
        digit = float(f"{text[:at]}{rng.randrange(10)}{text[at + 1 :]}")
        return type(was)(rng.choice([10 * was, was / 10, was + 1, -was, digit]))

    return put(rng, facts, (int, float), new, facts)


def element_changed(rng, facts, other):
    def new(was):
        at = rng.randrange(max(1, len(was)))
        return rng.choice([was[:at] + was[at + 1 :], was[: at + 1] + was[at:], was[::-1]])

    return put(rng, facts, (list,), new, facts)


def text_changed(rng, facts, other):
    def new(was):
        at = rng.randrange(len(was) + 1)
        return was[:at] + rng.choice("0a ") + was[at + rng.randrange(2) :]

    return put(rng, facts, (str,), new, facts)


def renamed_or_removed(rng, facts, other):
    name = rng.choice(list(facts))
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


def of_another(rng, facts, other):
    name = rng.choice([name for name in facts if name in other])
    facts[name] = other[name]
    return f"{name} of another record"


def removed(rng, facts, other):
    name = rng.choice([name for name in NEEDED if name in facts])
    del facts[name]
    return f"{name} removed"


def of_another_kind(rng, facts, other):
    name = rng.choice([name for name in NEEDED if name in facts])
    others = [None, True, "", [True], {"a": True}]
    facts[name] = rng.choice([value for value in others if type(value) is not type(facts[name])])
    return f"{name} became {facts[name]!r}"


def wrong_length(rng, facts, other):
    def new(was):
        return rng.choice([was[:-1], was + was[:1], []])

    return put(rng, facts, (list,), new, (*LISTS, *CURVES))


def out_of_range(rng, facts, other):
    def new(was):
        return rng.choice([math.nan, math.inf, -math.inf, 10**400, -1e9])

    return put(rng, facts, (int, float), new, (*LISTS, *CURVES, "seconds"))


# ---------------------------------------------------------------- bytes of any file


def of_bytes(kind, change):
    """Damage by change(rng, bytes) -> (bytes, what was done) to the file of a kind."""

    def damage(rng, good, other):
        file = good.files[kind]
        changed, said = change(rng, file.read_bytes())
        file.write_bytes(changed)
        return said

    return damage


def flipped(rng, whole):
    at, bits = rng.randrange(len(whole)), rng.randrange(1, 256)
    return whole[:at] + bytes([whole[at] ^ bits]) + whole[at + 1 :], f"byte {at} xor {bits}"


def truncated(rng, whole):
    length = rng.choice([0, 1, rng.randrange(len(whole)), len(whole) - 1])
    return whole[:length], f"cut to {length} of {len(whole)} bytes"


def doubled_key(rng, whole):
    name = rng.choice(list(json.loads(whole)))
    more = json.dumps({name: anything(rng)})[1:]
    return whole.rstrip()[:-1] + b", " + more.encode(), f"a second {more[:80]}"


def odd_text(rng, whole):
    texts = {
        "a BOM": b"\xef\xbb\xbf" + whole,
        "UTF-16": whole.decode().encode("utf-16"),
        "not UTF-8": whole.replace(b"e", b"\xe9"),
        "100,000 lists": b"[" * 100_000,
        "100,000 objects": b'{"a":' * 100_000,
        "100,000 lists in a fact": whole.rstrip()[:-1] + b', "a": ' + b"[" * 100_000,
        "a number of 5,000 digits": whole.replace(b": 1,", b": " + b"1" * 5000 + b",", 1),
        "null": b"null",
        "a list": b"[]",
        "text": b'"config"',
        "zeros": bytes(len(whole)),
    }
    said = rng.choice(list(texts))
    return texts[said], said


def odd_file(rng, good, other, kinds=("json", "npz")):
    """Something that is no file of this size in the place of one."""
    kind, thing = rng.choice(kinds), rng.choice(["a folder", "a FIFO", "a sparse file of 5 GiB"])
    path = good.files[kind]
    path.unlink()
    if thing == "a folder":
        path.mkdir()
    elif thing == "a FIFO":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, HUGE)
    return f"{kind}: {thing}"


def of_another_record(kind):
    def damage(rng, good, other):
        good.files[kind].write_bytes(other.files[kind].read_bytes())
        return f"{kind} of {other.cfg.key()}"

    return damage


# ---------------------------------------------------------------- arrays whose hash is right


def of_arrays(change):
    """Damage by change(rng, arrays), which says what it did; the JSON file has the new hash."""

    def damage(rng, good, other):
        json_file, file = good.files["json"], good.files["npz"]
        with np.load(file) as opened:
            arrays = dict(opened)
        said = change(rng, arrays)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w") as member:
                    write = getattr(array, "write", functools.partial(np.save, arr=array))
                    write(member)
        facts = json.loads(json_file.read_text())
        facts["npz_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        json_file.write_text(json.dumps(sealed(facts), indent=1))
        return said

    return damage


class Declared:
    """An array of 5 GiB, of which there is nothing but the declaration."""

    def write(self, member):
        header = {"descr": "|i1", "fortran_order": False, "shape": (HUGE,)}
        np.lib.format.write_array_header_1_0(member, header)


def declared(rng, arrays):
    name = rng.choice(list(arrays))
    arrays[name] = Declared()
    return f"{name} declares 5 GiB"


def wrong_arrays(rng, arrays):
    name = rng.choice(list(arrays))
    was = arrays[name]
    ways = {
        "float64": was.astype("f8"),
        "int64": was.astype("i8"),
        "big-endian": was.astype(was.dtype.newbyteorder(">")) if was.itemsize > 1 else was[:0],
        "pickled": was.astype(object),
        "text": was.astype("U"),
        "one row less": was[:-1],
        "one axis more": was[None],
        "one number": was.flat[0],
    }
    said = rng.choice(list(ways))
    arrays[name] = np.asarray(ways[said])
    return f"{name}: {said}"


def wrong_values(rng, arrays):
    name = rng.choice([name for name in arrays if name.endswith(("predicted", "log_p"))])
    values = [-1, 120] if name.endswith("predicted") else [math.nan, math.inf, -math.inf, 0.5]
    at, value = rng.randrange(len(arrays[name])), rng.choice(values)
    arrays[name][at] = value
    return f"{name}[{at}] = {value}"


# ---------------------------------------------------------------- weights


class Code:
    """What a pickle may hold: it runs when it is read."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / "ran"),)


def pickled(rng, good, other):
    good.files["weights"].write_bytes(pickle.dumps(Code(good.files["weights"].parent)))
    return "a pickle with code"


OF_WEIGHTS = {
    "weights: a byte changed": of_bytes("weights", flipped),
    "weights: cut short or empty": of_bytes("weights", truncated),
    "weights: of another network": of_another_record("weights"),
    "weights: a pickle with code": pickled,
    "weights: a folder, a FIFO, 5 GiB": functools.partial(odd_file, kinds=("weights",)),
}
KINDS = {
    "JSON: a number a little different": of_facts(number_changed),
    "JSON: an element dropped, doubled; a list turned round": of_facts(element_changed),
    "JSON: a text changed": of_facts(text_changed),
    "JSON: a fact renamed or removed": of_facts(renamed_or_removed),
    "JSON: any value in place of a fact": of_facts(replaced),
    "JSON: any value in place of a field of the Config": of_facts(field_replaced),
    "JSON: a fact of another record": of_facts(of_another),
    "JSON: a key twice": of_bytes("json", doubled_key),
    "JSON: a byte changed": of_bytes("json", flipped),
    "JSON: cut short or empty": of_bytes("json", truncated),
    "JSON: BOM, UTF-16, 100,000 brackets and the like": of_bytes("json", odd_text),
    "sealed again: a fact removed": of_facts(removed, sealed),
    "sealed again: a fact of another kind": of_facts(of_another_kind, sealed),
    "sealed again: a list of another length": of_facts(wrong_length, sealed),
    "sealed again: a number out of range or not finite": of_facts(out_of_range, sealed),
    "sealed again: any value in place of a field of the Config": of_facts(field_replaced, sealed),
    "npz: a byte changed": of_bytes("npz", flipped),
    "npz: cut short or empty": of_bytes("npz", truncated),
    "npz: of another record": of_another_record("npz"),
    "npz with its hash: declares 5 GiB": of_arrays(declared),
    "npz with its hash: another type or shape": of_arrays(wrong_arrays),
    "npz with its hash: values out of range": of_arrays(wrong_values),
    "JSON or npz: a folder, a FIFO, 5 GiB": odd_file,
    **OF_WEIGHTS,
}
