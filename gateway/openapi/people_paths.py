"""What admins may ask of creators, their keys and each other."""

from gateway.creator_standing import SORTS, STATES
from gateway.endpoints.admin.creators import CreatorChanges, CreatorForm
from gateway.endpoints.admin.keys import AdminKeyChanges, AdminKeyForm, KeyForm, NoForm, RotationForm
from gateway.endpoints.admin.rehearsal import RehearsalForm
from gateway.openapi import errors
from gateway.openapi.admin_operation import CSV, CURSOR, FORMAT, OBJECT, OBJECTS, admin_operation, page_limit
from gateway.openapi.shapes import (
    Answer,
    Operation,
    array,
    boolean,
    choice,
    integer,
    listing,
    query,
    record,
    ref,
    text,
    whatever,
)
from gateway.roles import ROLES

__all__ = ["people_operations"]


def people_operations() -> list[Operation]:
    return [*_people(), *_keys(), *_admins()]


def _people() -> list[Operation]:
    tag = "Creators"
    standing = (
        query("plan", "Of this plan only."),
        query("q", "Part of an id or a name."),
        query("sort", "The largest first; `name` by name.", choice(sorted(SORTS), default="spend")),
        query("state", "Only these.", choice(sorted(STATES))),
        page_limit(200, 50),
        CURSOR,
        FORMAT,
    )
    days = (query("from", "A day (UTC), inclusive."), query("to", "A day (UTC), exclusive."))
    shown = Answer("The creator.", ref("Creator"))
    counts = array(OBJECT)
    refused = record({"data": counts, "by_reason": counts, "total": integer(), "from": text(), "to": text()})
    return [
        admin_operation(
            "POST",
            "/admin/creators",
            tag,
            "Make a creator",
            "Whom the gateway serves and charges.",
            shown._replace(status=201),
            (*errors.PLAN, *errors.NEW_CREATOR),
            form=CreatorForm,
            example={"id": "acme", "plan": "starter"},
        ),
        admin_operation(
            "GET",
            "/admin/creators",
            tag,
            "List creators",
            "By id.",
            Answer("A page.", listing(ref("Creator"))),
            ((400, "invalid_value"), (422, "unknown_field")),
            (
                page_limit(1_000, 100),
                CURSOR,
                query("plan", "Of this plan only."),
                query("ids", "Only these, their ids joined by commas."),
            ),
        ),
        admin_operation(
            "GET",
            "/admin/creators/{id}",
            tag,
            "Show a creator",
            "With its effective plan.",
            shown,
            errors.CREATOR_MISSING,
        ),
        admin_operation(
            "PATCH",
            "/admin/creators/{id}",
            tag,
            "Change a creator",
            "Fields that are not sent stay as they are.",
            shown,
            (*errors.CREATOR_MISSING, *errors.PLAN),
            form=CreatorChanges,
            example={"plan": "pro"},
        ),
        admin_operation(
            "DELETE",
            "/admin/creators/{id}",
            tag,
            "Delete a creator",
            "Keys are revoked, names erased; entries stay.",
            Answer("It is gone.", record({"id": text(), "deleted": boolean()})),
            errors.CREATOR_MISSING,
        ),
        admin_operation(
            "GET",
            "/admin/creators/{id}/limits",
            tag,
            "Show how a creator stands",
            "What `/v1/me` answers the creator.",
            Answer("As of now.", OBJECT),
            errors.CREATOR_MISSING,
        ),
        admin_operation(
            "GET",
            "/admin/creators/{id}/refusals",
            tag,
            "Count a creator's refused calls",
            "By day and reason; this month where nothing else is said.",
            Answer("The counts.", record({"data": array(OBJECT), "from": text(), "to": text()})),
            (*errors.READS, *errors.CREATOR_MISSING),
            days,
        ),
        admin_operation(
            "GET",
            "/admin/standing",
            tag,
            "List how all creators stand",
            "Each with its month beside its caps. The role `support` sees it with `sort=name`.",
            Answer("A page.", OBJECTS, types=CSV),
            errors.READS,
            standing,
        ),
        admin_operation(
            "GET",
            "/admin/refusals",
            tag,
            "Count refused calls",
            "By reason and creator, the most first; this month where nothing else is said.",
            Answer("The counts.", refused, types=CSV),
            errors.READS,
            (
                *days,
                query("creator", "Of this one."),
                query("reason", "With this code."),
                page_limit(1_000, 100),
                FORMAT,
            ),
        ),
        admin_operation(
            "GET", "/admin/plans", tag, "List the plans", "As they stand.", Answer("All.", listing(ref("Plan")))
        ),
        admin_operation(
            "GET",
            "/admin/policies",
            tag,
            "Show plans, mode and downgrades",
            "With how many creators are on each plan, and the models it lets them call.",
            Answer(
                "The policies.",
                record({"mode": text(), "plans": array(OBJECT), "downgrades": array(OBJECT)}),
                types=CSV,
            ),
            errors.READS,
            (FORMAT,),
        ),
        admin_operation(
            "GET",
            "/admin/policies/{plan}/overrides",
            tag,
            "List the creators for whom a plan is another one",
            "With what differs: the plan's value and the one in force.",
            Answer("A page.", OBJECTS),
            (*errors.READS, *errors.MISSING),
            (page_limit(1_000, 100), CURSOR),
        ),
        admin_operation(
            "POST",
            "/admin/rehearsals",
            tag,
            "Try changed plans on past calls",
            "Who would have been refused or downgraded, and what it would have saved. Changes nothing.",
            Answer("The report.", OBJECT, types=CSV),
            (*errors.READS, (400, "plan_unknown"), (409, "rehearsal_running")),
            (FORMAT,),
            form=RehearsalForm,
            example={"plan": "free", "changes": {"requests_per_hour": 5}, "days": 7},
        ),
    ]


def _keys() -> list[Operation]:
    tag = "Virtual keys"
    key = Answer("The key, without its text.", ref("Key"))
    made = Answer("The key with its text, which is shown here only.", ref("NewKey"), 201)
    more = record({"data": array(ref("Key")), "has_more": boolean()})
    return [
        admin_operation(
            "POST",
            "/admin/creators/{id}/keys",
            tag,
            "Make a virtual key",
            "The role `support` leaves `overrides`, `scopes` and `default_plan` empty. With an `id` of one's own, 12 letters and "
            "digits, a request that is sent twice makes one key: the second time is 409 `key_exists`.",
            made,
            (*errors.CREATOR_MISSING, *errors.PLAN, *errors.KEY_MADE),
            form=KeyForm,
            example={"name": "production"},
        ),
        admin_operation(
            "GET",
            "/admin/creators/{id}/keys",
            tag,
            "List a creator's keys",
            "Without their texts.",
            Answer("A page.", listing(ref("Key"))),
            (*errors.CREATOR_MISSING, (400, "invalid_value"), (422, "unknown_field")),
            (page_limit(1_000, 100), CURSOR),
        ),
        admin_operation("DELETE", "/admin/keys/{id}", tag, "Revoke a key", "At once.", key, errors.KEY_MISSING),
        admin_operation(
            "POST",
            "/admin/keys/{id}/rotate",
            tag,
            "Replace a key",
            "The old one works for `grace_s` seconds more.",
            made,
            (*errors.KEY_MISSING, *errors.ROTATED),
            form=RotationForm,
            example={"grace_s": 3600},
        ),
        admin_operation(
            "POST",
            "/admin/keys/{id}/pause",
            tag,
            "Refuse a key",
            "Until it is resumed.",
            key,
            errors.KEY_MISSING,
            form=NoForm,
        ),
        admin_operation(
            "POST",
            "/admin/keys/{id}/resume",
            tag,
            "Resume a key",
            "After a pause.",
            key,
            errors.KEY_MISSING,
            form=NoForm,
        ),
        admin_operation(
            "GET",
            "/admin/paused-keys",
            tag,
            "List paused keys",
            "The latest first.",
            Answer("Up to `limit`.", more),
            errors.READS,
            (page_limit(1_000, 100),),
        ),
    ]


def _admins() -> list[Operation]:
    tag = "Admins"
    key = Answer("The key, without its text.", ref("AdminKey"))
    who = record({"key_id": text(), "name": text(), "role": choice(ROLES)})
    log = (
        query("from", "A day or an RFC 3339 instant, inclusive."),
        query("to", "Exclusive."),
        query("admin", "An admin key's public id; `settings` or `local` for those that have none."),
        query("action", "A part of it, such as `DELETE` or `/admin/keys`."),
        query("target", "The id of what it was done to."),
        page_limit(1_000, 100),
        CURSOR,
        query("format", "A file with all that fits.", choice(["json", "csv"], default="json")),
    )
    return [
        admin_operation(
            "GET", "/admin/whoami", tag, "Ask who one is", "Key, name and role.", Answer("The admin.", who)
        ),
        admin_operation(
            "POST",
            "/admin/admin-keys",
            tag,
            "Make an admin key",
            "For an admin with a name and a role.",
            Answer("The key with its text, which is shown here only.", ref("NewAdminKey"), 201),
            errors.KEY_MADE,
            form=AdminKeyForm,
            example={"name": "Ada", "role": "finance"},
        ),
        admin_operation(
            "GET",
            "/admin/admin-keys",
            tag,
            "List admin keys",
            "Without their texts.",
            Answer("All.", listing(ref("AdminKey")), types=CSV),
            errors.READS,
            (FORMAT,),
        ),
        admin_operation(
            "PATCH",
            "/admin/admin-keys/{id}",
            tag,
            "Change an admin's name or role",
            "Fields that are not sent stay as they are.",
            key,
            (*errors.KEY_MISSING, *errors.LAST_OWNER),
            form=AdminKeyChanges,
            example={"role": "support"},
        ),
        admin_operation(
            "DELETE",
            "/admin/admin-keys/{id}",
            tag,
            "Revoke an admin key",
            "At once. The last owner stays, unless the settings have a key.",
            key,
            (*errors.KEY_MISSING, *errors.LAST_OWNER),
        ),
        admin_operation(
            "GET",
            "/admin/audit",
            tag,
            "List what admins did",
            "The newest first; `status` is null where there was no answer.",
            Answer("A page.", listing(whatever()), types=CSV),
            errors.READS,
            log,
        ),
    ]
