"""The table of contents: which path leads where. What stands behind the paths is `gateway.services`."""

from collections.abc import Mapping, Sequence

from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.dashboard import dashboard_routes
from gateway.dashboard.guard import DashboardGuard
from gateway.dashboard.render import with_error_pages
from gateway.endpoints import (
    EXCEPTION_HANDLERS,
    assets,
    conversations,
    docs,
    estimate,
    generations,
    health,
    me,
    messages,
    models,
    providers,
    responses,
)
from gateway.endpoints.admin import AdminOnly, admin_routes, control_app
from gateway.endpoints.chat_completions import ChatCompletions
from gateway.endpoints.completions import Completions
from gateway.endpoints.embeddings import Embeddings
from gateway.endpoints.guard import CreatorOnly, RequestLog
from gateway.endpoints.hot import ModelEndpoint
from gateway.endpoints.image_edits import ImageEdits
from gateway.endpoints.image_variations import ImageVariations
from gateway.endpoints.images import ImageGenerations
from gateway.endpoints.messages import Messages
from gateway.endpoints.moderations import Moderations
from gateway.endpoints.responses import Responses
from gateway.endpoints.speech import Speech
from gateway.endpoints.transcriptions import Transcriptions
from gateway.endpoints.translations import Translations
from gateway.services import Services

_ENDPOINTS = (ChatCompletions, Completions, Embeddings, Moderations, Speech, Transcriptions, Translations, Messages)
_IMAGE_ENDPOINTS = (ImageGenerations, ImageEdits, ImageVariations)
"""An endpoint is one module and one word here."""
MODEL_PATHS = tuple(endpoint.path for endpoint in (*_ENDPOINTS, *_IMAGE_ENDPOINTS, Responses))
"""Where calls come in, all by `POST`."""
_CREATOR_MODULES = (models, providers, me, estimate, messages, responses, conversations, generations)


def build_app(services: Services) -> ASGIApp:
    """The public app: hot paths first, then health, then everything that needs a key."""
    pages = Starlette(routes=public_routes(), exception_handlers=with_error_pages(EXCEPTION_HANDLERS))
    pages.router.redirect_slashes = False
    pages.add_middleware(CreatorOnly)
    pages.add_middleware(AdminOnly)
    pages.add_middleware(DashboardGuard)
    pages.add_middleware(RequestLog)
    for name, value in services.state().items():
        setattr(pages.state, name, value)
    pipeline, bytes_max = services.pipeline, services.settings.body_bytes_max
    endpoints: Sequence[ModelEndpoint] = [
        *(endpoint(pipeline, bytes_max) for endpoint in _ENDPOINTS),
        *(endpoint(pipeline, bytes_max, services.kept_images) for endpoint in _IMAGE_ENDPOINTS),
        Responses(pipeline, bytes_max, services.response_store),
    ]
    hot: Mapping[str, ASGIApp] = {endpoint.path: endpoint for endpoint in endpoints}
    pages.state.model_endpoints = hot  # a page may hand a request on to one

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hot.get(scope.get("path", ""), pages)(scope, receive, send)

    return app


def public_routes() -> list[BaseRoute]:
    """Everything that is no model's to answer (`MODEL_PATHS` are)."""
    creator_routes = [route for module in _CREATOR_MODULES for route in module.routes]
    return [*health.routes, *assets.routes, *docs.routes, *creator_routes, *admin_routes(), *dashboard_routes()]


def build_control_app(services: Services) -> ASGIApp:
    """The admin API for the Unix socket, whose file mode says who may call, and what workers ask each other there."""
    app = control_app(services.state())
    app.router.routes.extend(health.control_routes)
    return app


__all__ = ["MODEL_PATHS", "build_app", "build_control_app", "public_routes"]
