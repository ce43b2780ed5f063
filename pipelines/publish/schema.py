"""The columns of a published dataset, and rows of any file of the run in that form.

The published columns are those of this version, then any that the files have besides. Their
metadata tell Hugging Face `datasets` which of them is an image.

Limits: a column that two files of the run hold in types which do not go together is an error.
"""

import json
from collections.abc import Iterable

import pyarrow as pa

from actors.records import PAIR_SCHEMA, RECORD_FORMAT, hf_feature
from cluster.errors import CommitError


def published_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """One schema that the rows of all these files fit.

    Raises:
        CommitError: two files hold one column in types that do not go together.
    """
    distinct = list(dict.fromkeys(one.remove_metadata() for one in schemas))
    try:
        whole = pa.unify_schemas(
            [PAIR_SCHEMA.remove_metadata(), *distinct], promote_options="permissive"
        )
    except pa.ArrowException as error:
        raise CommitError(f"the files of the run do not go together: {error}") from error
    features = {one.name: hf_feature(one.type) for one in whole}
    metadata = {
        "huggingface": json.dumps({"info": {"features": features}}),
        "pairloom.format": RECORD_FORMAT,
    }
    return whole.with_metadata(metadata)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same rows with the columns of `schema`, null where the file has none."""
    columns = [
        table.column(field.name).cast(field.type)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
