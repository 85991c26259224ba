"""`/docs`: the guides of docs/ and the README as pages, their search, and the API's page; made once, kept in memory.

`library` finds the texts, `markdown` makes pages of them, `search` makes them findable, `api_page` turns the OpenAPI document
into what a template can show, `site` has it all by path. Served by `gateway.endpoints.docs`.
"""

__all__: list[str] = []
