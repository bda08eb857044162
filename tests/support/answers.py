"""Holds a document to the type that OpenAPI tells for it."""

import functools
import json

import jsonschema

from osremed.console.answers import answer_model


@functools.cache
def _validator(operation):
    return jsonschema.Draft202012Validator(answer_model(operation).model_json_schema(mode="serialization"))


def fits(operation, document):
    """AssertionError with the place where it does not."""
    whole = {"document": json.loads(json.dumps(document)), "text": "", "exit_code": 0}
    for wrong in _validator(operation).iter_errors(whole):
        raise AssertionError(f"{operation}: {'/'.join(map(str, wrong.absolute_path))}: {wrong.message[-300:]}")
