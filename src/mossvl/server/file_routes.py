"""The routes of uploaded files."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response

from mossvl.server.description import responses
from mossvl.server.errors import RequestError
from mossvl.server.forms import uploaded
from mossvl.server.problems import check_query
from mossvl.server.service import Service
from mossvl.server.uploads import Upload

MOST_LISTED = 10_000
"""Files of a page of the list."""
LISTED_BY = ("after", "limit", "order", "purpose")
"""Parameters of the list."""
AS_IT_IS = {"x-content-type-options": "nosniff"}
"""Headers of a file's content, which no browser may take for a page of this server."""


def add_files(app: FastAPI, service: Service) -> None:
    """Add the routes of files; those that only ask the index may wait for another process, in a thread."""

    @app.post("/v1/files", responses=responses(400, 401, 413, 503))
    async def upload(request: Request) -> dict[str, Any]:
        """Upload a file, which requests name as `upload:ID`."""
        _ = service.ready
        return described(service, await uploaded(request, service.uploads, service.config.max_download))

    @app.get("/v1/files", responses=responses(400, 401, 403))
    def files(request: Request) -> dict[str, Any]:
        """List the files that were uploaded with the request's API key, newest first."""
        if service.config.open_to_all and not service.config.api_keys:
            raise RequestError(403, "unlisted", "files of all clients are not listed; set an API key (--api-key)")
        return listed(service, service.uploads.of(request.state.key), request.query_params)

    @app.get("/v1/files/{file_id}", responses=responses(401, 404))
    def file(request: Request, file_id: str) -> dict[str, Any]:
        """Describe an uploaded file."""
        return described(service, service.uploads.get(request.state.key, file_id))

    @app.get("/v1/files/{file_id}/content", response_class=Response, responses=responses(401, 404))
    def content(request: Request, file_id: str) -> FileResponse:
        """Return the bytes of an uploaded file."""
        found = service.uploads.get(request.state.key, file_id)
        return FileResponse(found.path, 200, AS_IT_IS, "application/octet-stream", filename=found.filename)

    @app.delete("/v1/files/{file_id}", responses=responses(401, 404))
    def delete(request: Request, file_id: str) -> dict[str, Any]:
        """Delete an uploaded file."""
        service.uploads.remove(request.state.key, file_id)
        return {"id": file_id, "object": "file", "deleted": True}


def described(service: Service, upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "object": "file",
        "bytes": upload.size,
        "filename": upload.filename,
        "created_at": int(upload.created),
        "expires_at": int(upload.used + service.config.upload_seconds),
        "purpose": upload.purpose,
    }


def listed(service: Service, found: list[Upload], query: Any) -> dict[str, Any]:
    """Return a page of files, newest first.

    Args:
        query: `limit`, `order` ("asc" or "desc"), `after` (a file's id) and `purpose`, all optional.

    Raises:
        RequestError: one of these is none.
    """
    check_query(query, LISTED_BY)
    limit, order, after = query.get("limit", str(MOST_LISTED)), query.get("order", "desc"), query.get("after")
    if not (limit.isdecimal() and limit.isascii() and 0 < int(limit[:9]) <= MOST_LISTED):
        message = f"limit: {limit!r:.40} is no number from 1 to {MOST_LISTED}"
        raise RequestError(400, "invalid_request", message, "limit")
    if order not in ("asc", "desc"):
        raise RequestError(400, "invalid_request", f"order: {order!r:.40} is none of 'asc' and 'desc'", "order")
    files = found if order == "desc" else found[::-1]
    if after is not None:
        ids = [file.id for file in files]
        if after not in ids:
            raise RequestError(400, "invalid_request", f"after: there is no file {after!r:.80}", "after")
        files = files[ids.index(after) + 1 :]
    if (purpose := query.get("purpose")) is not None:
        files = [file for file in files if file.purpose == purpose]
    page = files[: int(limit[:9])]
    ends = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
    return {
        "object": "list",
        "data": [described(service, file) for file in page],
        **ends,
        "has_more": len(page) < len(files),
    }
