"""The error of a request that breaks a rule of the Messages API."""


class Invalid(Exception):
    """The request breaks a rule of the API. The text and the status are those of the response."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status
