"""The pages: what people look at instead of asking the API, which is what the pages do for them."""

from starlette.routing import BaseRoute

from gateway.dashboard import (
    admins,
    audit,
    calls,
    creator_actions,
    creators,
    explore,
    exports,
    me,
    models,
    months,
    notices,
    overview,
    playground,
    policies,
    providers,
    sign_in,
    static_files,
)

__all__ = ["dashboard_routes"]

_PAGES = (
    sign_in,
    exports,
    static_files,
    overview,
    explore,
    me,
    playground,
    calls,
    creator_actions,
    creators,
    months,
    admins,
    audit,
    models,
    providers,
    notices,
    policies,
)
"""A page is one module and one word here, and one line in `gateway.dashboard.render.NAVIGATION`."""


def dashboard_routes() -> list[BaseRoute]:
    """Every route below /dashboard. Put them behind `DashboardGuard`."""
    return [route for module in _PAGES for route in module.routes]
