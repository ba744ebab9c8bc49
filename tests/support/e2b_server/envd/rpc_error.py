"""The error of a Connect call."""


class RpcError(Exception):
    """A call that envd refuses: the code of Connect, such as `invalid_argument`, and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


#: The HTTP status of each code of a unary call.
STATUS = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "not_found": 404,
    "already_exists": 409,
    "internal": 500,
    "unimplemented": 501,
}
