"""Ways to damage a file, for the tests that load damaged files: bytes, members of an archive, and values in JSON."""

import io
import json
import warnings
import zipfile

import numpy as np

VALUES = [
    None,
    True,
    -1,
    0,
    10**30,
    float("inf"),
    float("nan"),
    "x",
    "",
    [],
    {},
    [[]],
    {"a": {"b": [1]}},
    "softmax_regression",
]
DTYPES = ["<f8", ">f4", "<i4", "u1", "?", "<U5", "S3", "c8", "M8[s]", "O"]


def damage(path, rng):
    """Damage the file in a random way; return what was done."""
    ways = [flip_bytes, truncate, zero_a_block, append, replace_content]
    if path.suffix == ".npz":
        ways += [change_members] * 5 + [change_json] * 3
    elif path.suffix == ".json":
        ways += [change_json] * 5
    way = ways[rng.integers(len(ways))]
    return f"{way.__name__}: {way(path, rng)}"


def flip_bytes(path, rng):
    content = bytearray(path.read_bytes())
    places = rng.integers(len(content), size=rng.integers(1, 20))
    # Half of the time in the table at the archive's end, where sizes and offsets stand.
    if rng.random() < 0.5:
        places = len(content) - 1 - places % min(len(content), 600)
    for place in places:
        content[place] ^= int(rng.integers(1, 256))
    path.write_bytes(content)
    return places.tolist()


def truncate(path, rng):
    content = path.read_bytes()
    length = int(rng.integers(len(content)))
    path.write_bytes(content[:length])
    return length


def zero_a_block(path, rng):
    content = bytearray(path.read_bytes())
    start = int(rng.integers(len(content)))
    length = int(rng.integers(1, 200))
    content[start : start + length] = bytes(len(content[start : start + length]))
    path.write_bytes(content)
    return start, length


def append(path, rng):
    path.write_bytes(path.read_bytes() + rng.bytes(int(rng.integers(1, 500))))
    return "bytes at the end"


def replace_content(path, rng):
    contents = [
        b"",
        b"\x89PNG\r\n\x1a\n" + bytes(50),
        b"hello",
        b"\x80\x04N.",
        b"[" * 100_000,
        b"\xff" * 30,
        b"null",
        b"PK\x03\x04",
    ]
    content = contents[rng.integers(len(contents))]
    path.write_bytes(content)
    return content[:10]


# Members --------------------------------------------------------------------------------------------------------------


def read_members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_members(path, members, compression=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as archive:
        warnings.simplefilter("ignore")  # two members of one name
        for name, content in members:
            archive.writestr(name, content)


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def change_members(path, rng):
    """Remove, rename, double or add a member, or give one another dtype, shape or content."""
    members = list(read_members(path).items())
    i = int(rng.integers(len(members)))
    name, content = members[i]
    array = np.load(io.BytesIO(content))
    way = ["remove", "rename", "double", "add", "dtype", "shape", "rows", "other", "plain"][rng.integers(9)]
    if way == "remove":
        del members[i]
    elif way == "rename":
        members[i] = (
            ["x", "../x.npy", "x.npy", "labels.npy", "\u00e9.npy", "json.npy", ".npy"][rng.integers(7)],
            content,
        )
    elif way == "double":
        members.append((name, content))
    elif way == "add":
        members.append(("extra.npy", saved(np.zeros(rng.integers(0, 4, size=2)))))
    elif way == "dtype":
        dtype = DTYPES[rng.integers(len(DTYPES))]
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                changed = array.astype(dtype)
            except (ValueError, TypeError, OverflowError):
                changed = np.zeros(array.shape, dtype)
        members[i] = (name, saved(changed))
    elif way == "shape":
        shape = [(-1,), (1, *array.shape), (*array.shape, 1), (0,)][rng.integers(4)]
        members[i] = (name, saved(array.reshape(shape) if shape != (0,) else np.zeros(0, array.dtype)))
    elif way == "rows" and array.ndim:
        members[i] = (name, saved(array[: rng.integers(len(array) + 1)]))
    elif way == "other":
        members[i] = members[rng.integers(len(members))][0], content
    else:
        members[i] = (
            name,
            [b"", b"text", b"\x93NUMPY\x01\x00\x10\x00{'descr': 1}    ", b"\x80\x04N."][rng.integers(4)],
        )
    write_members(path, members, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED][rng.integers(2)])
    return way, name


def change_json(path, rng):
    """Replace a random value in the JSON of the file, or all of it."""
    if path.suffix == ".json":
        text, what = _changed_json(path.read_text("utf-8"), rng)
        path.write_text(text, "utf-8")
        return what
    members = list(read_members(path).items())
    texts = [i for i, (_, content) in enumerate(members) if np.load(io.BytesIO(content)).dtype.kind == "U"]
    if not texts:
        return change_members(path, rng)
    i = texts[rng.integers(len(texts))]
    name, content = members[i]
    text, what = _changed_json(str(np.load(io.BytesIO(content))), rng)
    members[i] = (name, saved(np.array(text)))
    write_members(path, members)
    return name, what


def _changed_json(text, rng):
    if rng.random() < 0.2:
        whole = ["", "{", "null", "3", "[]", "{}", '"x"', "[" * 50_000, '{"a":' * 50_000, text[: len(text) // 2]]
        new = whole[rng.integers(len(whole))]
        return new, new[:20]
    value = json.loads(text)
    places = list(_places(value))
    holder, key = places[rng.integers(len(places))] if places else ([value], 0)
    if rng.random() < 0.2 and isinstance(holder, dict):
        del holder[key]
        return json.dumps(value), (key, "removed")
    new = VALUES[rng.integers(len(VALUES))]
    holder[key] = new
    return json.dumps(value), (key, new)


def _places(value):
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
