"""Alone, or one of several: what the stores allow."""

from typing import TYPE_CHECKING

from gateway.instances.base import AloneInstance

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.instances.shared import SharedInstances

__all__ = ["open_instances"]


async def open_instances(settings: "Settings", instance_id: str) -> "AloneInstance | SharedInstances":
    """Once the database has its tables. Raises `ConfigError`."""
    url = settings.postgres_url
    if url is None or not settings.has_shared_stores:
        return AloneInstance(instance_id)
    from gateway.instances.shared import SharedInstances

    instances = SharedInstances(url, instance_id)
    await instances.start()
    return instances
