"""Validates documents against JSON schemas, and the schemas against mutants.

Reads {"schemas": DIR, "documents": [{"schema", "label", "document"}]} from
standard input; prints {"problems": [...], "mutants": N, "unseen": [...]}.
A mutant is a document with one property removed, added or of another type:
a schema that accepts one does not say enough.
"""

import copy
import json
import pathlib
import sys

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

task = json.load(sys.stdin)
problems = []
schemas = {}
for path in sorted(pathlib.Path(task["schemas"]).glob("*.schema.json")):
    schema = json.loads(path.read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    if schema["$id"] != path.name:
        problems.append(f"{path.name}: its $id is {schema['$id']}")
    schemas[path.name] = schema
registry = Registry().with_resources((name, Resource.from_contents(s)) for name, s in schemas.items())
validators = {
    name: Draft202012Validator(s, registry=registry, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for name, s in schemas.items()
}


def check_style(where, schema):
    """Every object is closed, and every property is described and required."""
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            problems.append(f"{where}: is open to properties that it does not name")
        if set(schema.get("required", [])) != set(schema["properties"]):
            problems.append(f"{where}: has optional properties")
        for name, sub in schema["properties"].items():
            if len(sub.get("description", "")) < 10:
                problems.append(f"{where}.{name}: is not described")
            check_style(f"{where}.{name}", sub)
    if "items" in schema:
        check_style(f"{where}[]", schema["items"])


def mutants(document):
    """Every (what was done, mutant) of a document."""
    if isinstance(document, dict):
        yield "with one more property", {**document, "unheard-of": 1}
        for key, value in document.items():
            yield f"without {key}", {k: v for k, v in document.items() if k != key}
            wrong = 7 if not isinstance(value, int) or isinstance(value, bool) else "seven"
            yield f"with {key} of another type", {**document, key: wrong}
            for what, mutant in mutants(value):
                yield f"{key}: {what}", {**document, key: mutant}
    elif isinstance(document, list) and document:
        yield "with a number as an element", [*document, 7]
        for what, mutant in mutants(document[0]):
            yield f"element: {what}", [mutant, *document[1:]]


def resolve(schema):
    while "$ref" in schema:
        schema = schemas[schema["$ref"]]
    return schema


def note_seen(where, schema, value, seen):
    """Remembers which properties, words and kinds of value have turned up."""
    for variant in schema.get("anyOf", []):
        if value is not None and "$ref" in variant:
            note_seen(where, variant, value, seen)
    schema = resolve(schema)
    where = schema.get("$id", where)
    if isinstance(value, dict):
        for key, sub in schema.get("properties", {}).items():
            if key in value:
                note_seen(f"{where}.{key}", sub, value[key], seen)
    elif isinstance(value, list):
        for element in value:
            seen.add(f"{where}[]")
            note_seen(f"{where}[]", schema.get("items", {}), element, seen)
    seen.add((where, "null" if value is None else "value"))
    if "enum" in schema and value is not None:
        seen.add((where, value))


def expected(where, schema, wanted):
    """All that should have turned up in some document."""
    nullable = "null" in schema.get("type", []) or {"type": "null"} in schema.get("anyOf", [])
    nullable = nullable or None in schema.get("enum", [])
    if nullable:
        wanted.add((where, "null"))
    wanted.add((where, "value"))
    for word in schema.get("enum", []):
        if word is not None:
            wanted.add((where, word))
    for key, sub in schema.get("properties", {}).items():
        if "$ref" not in sub:
            expected(f"{where}.{key}", sub, wanted)
    if "items" in schema:
        wanted.add(f"{where}[]")


for name, schema in schemas.items():
    check_style(name, schema)

count = 0
seen = set()
for entry in task["documents"]:
    name = entry["schema"] + ".schema.json"
    validator = validators[name]
    label, document = entry["label"], entry["document"]
    errors = list(validator.iter_errors(document))
    for error in errors:
        problems.append(f"{label}: {error.json_path}: {error.message[:300]}")
    if errors:
        continue
    note_seen(name, schemas[name], document, seen)
    for what, mutant in mutants(copy.deepcopy(document)):
        count += 1
        if validator.is_valid(mutant):
            problems.append(f"{label}: {name} accepts it {what}")

wanted = set()
for name, schema in schemas.items():
    expected(name, schema, wanted)
unseen = sorted(str(w) for w in wanted if w not in seen)
print(json.dumps({"problems": problems, "mutants": count, "unseen": unseen}))
