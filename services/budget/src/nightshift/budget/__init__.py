"""The budget service: decides about money per account and day, and wakes sleeping builds."""
