"""Writes lock_keys.json: what Apache Superset, and the canonical form, make of namespaces and parameters.

Superset's lock key (4.1 to 6.1, superset/distributed_lock/utils.py) is a UUIDv5 over what simplejson writes with the
options below (superset/utils/json.py); the canonical key differs by `sort_keys=True` alone. Needs simplejson 4.3.0:

    python3 lock_keys.py > lock_keys.json
"""
import datetime
import decimal
import json
import random
import struct
import uuid

import simplejson


def default(value):
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if isinstance(value, (uuid.UUID, datetime.time, datetime.timedelta)):
        return str(value)
    if isinstance(value, set):
        return list(value)
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(value)


def text(params, sort_keys):
    return simplejson.dumps(
        params, default=default, allow_nan=False, ignore_nan=True, sort_keys=sort_keys, encoding="utf-8"
    )


def key(namespace, text):
    return str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_DNS, namespace), text))


def typed(value):
    """The value with its type, so that a reader whose JSON has one kind of number and no order reads the same."""
    if value is None:
        return ["null"]
    if isinstance(value, bool):
        return ["bool", value]
    if isinstance(value, int):
        return ["int", str(value)]
    if isinstance(value, float):
        return ["float", struct.pack(">d", value).hex()]
    if isinstance(value, decimal.Decimal):
        return ["decimal", str(value)]
    if isinstance(value, uuid.UUID):
        return ["uuid", str(value)]
    if isinstance(value, str):
        return ["text", value]
    if isinstance(value, (list, tuple, set)):
        return ["list", [typed(item) for item in value]]
    if isinstance(value, dict):
        return ["map", [[name, typed(item)] for name, item in value.items()]]
    return ["text", default(value)]


def finite(value):
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    if isinstance(value, dict):
        return all(finite(item) for item in value.values())
    return not isinstance(value, (list, tuple)) or all(finite(item) for item in value)


D = decimal.Decimal
cases = [
    # The vectors that Superset 6.1.0 itself was run for.
    ("token_refresh", {"user_id": 1}),
    ("data_processing", {"database_id": 7, "table_name": "orders"}),
    ("cache", {}),
    ("ns", {"flag": True, "off": False, "none": None}),
    ("ns", {"nested": {"b": [3, 1, 2], "a": {"y": 1, "x": 2}}}),
    ("refresh_oauth2_token", {"user_id": 42, "database_id": 3}),
    ("ns", {"v": float("nan")}),
    ("ns", {"v": datetime.datetime(2024, 1, 2, 3, 4, 5)}),
    ("ns", {"v": uuid.UUID(int=5)}),
    ("ns", {"v": datetime.timedelta(seconds=90)}),
    ("ns", {"v": (1, 2)}),
    ("ns", {"v": {1}}),
    # The order of the parameters.
    ("refresh_oauth2_token", {"database_id": 3, "user_id": 42}),
    ("ns", {"b": 1, "a": 2, "B": 3, "\u00e4": 4, "\uffff": 5, "\U0001f600": 6, "a\u0301": 7, "": 8}),
    ("ns", {"list": [{"z": 1, "a": {"y": [], "b": {}}}, [], {}]}),
    # Text.
    ("ns", {"v": "".join(map(chr, range(0x00, 0x30)))}),
    ("ns", {"v": "/\\\"'<>&~\x7f\x80\x9f\xa0\xff"}),
    ("ns", {"v": "gr\u00fc\u00dfe \u2028\u2029\ufeff\uffff \u65e5\u672c \U0001f600\U0010ffff\U00010000"}),
    ("ns", {"": "", "a b": " "}),
    ("", {"v": ""}),
    ("Gr\u00fc\u00dfe / {namespace}", {"v": 1}),
    ("x" * 300, {"v": 1}),
    # Numbers.
    ("ns", {"v": [0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**64 - 1, 2**127 - 1, -(2**127), 2**128 - 1]}),
    ("ns", {"v": 10**40 + 7}),
    ("ns", {"v": [D("1.10"), D("0.1"), D("-0.00"), D("1E+22"), D("12345678901234567890.0123456789"), D("0E-8")]}),
    ("ns", {"v": [float("inf"), float("-inf")]}),
    ("ns", {"v": [0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 123456.789, 100.0, 2.5e15, 2.0**53]}),
    ("ns", {"v": [1e15, 1e16, 1e17, 9999999999999998.0, 1e21, 1e22, 1e23, 1.5e300, -1e22, 1.7976931348623157e308]}),
    ("ns", {"v": [1e-3, 1e-4, 0.00012, 1e-5, 0.000015, 1e-7, 1.25e-10, 5e-324, 2.2250738585072014e-308]}),
]
random.seed(5)
floats = [struct.unpack(">d", random.randbytes(8))[0] for _ in range(120)]
floats += [random.uniform(-1, 1) * 10 ** random.randint(-8, 20) for _ in range(120)]
cases.append(("floats", {"v": [f for f in floats if f == f]}))

vectors = []
for namespace, params in cases:
    superset = text(params, False)
    vector = {"namespace": namespace, "params": typed(params)[1], "superset": [superset, key(namespace, superset)]}
    if finite(params):
        canonical = text(params, True)
        vector["canonical"] = [canonical, key(namespace, canonical)]
        try:  # Python's own module says the same, of what it takes.
            assert json.dumps(params, sort_keys=True) == canonical
        except TypeError:
            pass
    vectors.append(vector)
print("[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]")
