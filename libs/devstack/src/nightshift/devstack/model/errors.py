"""The error of a request that breaks a rule of the Messages API."""


class Invalid(Exception):
    """The request breaks a rule of the API. The text is the message of the response, which has this status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
