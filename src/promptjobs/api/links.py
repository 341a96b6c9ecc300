"""The `Link` header of a page: where the list goes on, and where it begins."""

from fastapi import Request


def page_links(request: Request, after: str | int | None) -> dict[str, str]:
    """rel="next" where there is more behind `after`, None for the last page; rel="first" on every page but that.

    Both are relative, so that they hold behind any proxy.
    """
    links = []
    if after is not None:
        url = request.url.remove_query_params("offset").include_query_params(after=after)
        links.append(f'<{url.path}?{url.query}>; rel="next"')
    if "after" in request.query_params or "offset" in request.query_params:
        url = request.url.remove_query_params(["after", "offset"])
        links.append(f'<{url.path}{"?" if url.query else ""}{url.query}>; rel="first"')
    return {"link": ", ".join(links)} if links else {}
