"""An HTTP client that reads no reply without end."""

import time
from typing import Any

import httpx2

__all__ = ["BoundedClient"]

# What a reply may have, unpacked, and how many times the timeout it may take from its first byte to its last: some
# services send blanks while they work.
_MOST_BYTES, _MOST_TIMEOUTS = 1 << 26, 10
_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")


class BoundedClient(httpx2.Client):
    """A client that reads no body without end: one that is too large, unpacks to too much, or trickles."""

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """The response, read; see `httpx2.Client.send`.

        Raises:
            httpx2.DecodingError: If its body is too large, or cannot be unpacked.
            httpx2.ReadError: If it takes too long.
        """
        response = super().send(request, **{**options, "stream": True})
        body, end = bytearray(), time.monotonic() + _MOST_TIMEOUTS * (self.timeout.read or 0)
        try:
            for part in response.iter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise httpx2.DecodingError(f"more than {_MOST_BYTES >> 20} MB", request=request)
                if time.monotonic() > end:
                    raise httpx2.ReadError("its reply has no end", request=request)
        finally:
            response.close()
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_BODY]
        return httpx2.Response(response.status_code, headers=headers, content=bytes(body), request=request)
