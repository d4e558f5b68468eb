"""Commands that list show all there is, however many pages it takes."""

from __future__ import annotations

from typing import Any

from shoal.server import rpc
from shoal.v1 import admin_service_pb2
from shoal_local.access import ServerAccess

NAMES = ["a", "b", "c"]


class Admin:
    """Gives one key a page, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def list_api_keys(
        self, request: admin_service_pb2.ListApiKeysRequest, _context: rpc.CallContext
    ) -> admin_service_pb2.ListApiKeysResponse:
        self.asked += 1
        place = int(request.page_token or "0")
        more = str(place + 1) if place + 1 < len(NAMES) else ""
        keys = [admin_service_pb2.ApiKey(name=NAMES[place])]
        return admin_service_pb2.ListApiKeysResponse(api_keys=keys, next_page_token=more)

    def __getattr__(self, name: str) -> Any:
        return self.list_api_keys


async def test_a_list_goes_on_until_its_last_page() -> None:
    admin = Admin()
    method = rpc.local_stub("shoal.v1.AdminService", admin).ListApiKeys
    pages = ServerAccess("nowhere").pages(method, admin_service_pb2.ListApiKeysRequest())
    assert [key.name async for page in pages for key in page.api_keys] == NAMES
    assert admin.asked == len(NAMES)
