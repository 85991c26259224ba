"""`/openapi.json`: every path of the API, what it takes and answers, out of the code that does it.

Forms are the pydantic classes that read them, the fields of entries and calls are the ones that are written, roles are the
table that is enforced. What models are asked is described by what the gateway reads of it; all else travels on. `shapes` has
the words the tables are written in, `errors` which codes go with which status, `model_paths`, `creator_paths`, `open_paths`, and
for admins `people_paths`, `books_paths` and `running_paths` the operations, `document` puts them together.
"""

from gateway.openapi.document import openapi_document, operations

__all__ = ["openapi_document", "operations"]
