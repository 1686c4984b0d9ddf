"""A sample of performance.rst."""

import orjson
from sqlalchemy import create_engine


def engine_with_orjson(url):
    return create_engine(
        url,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
    )
