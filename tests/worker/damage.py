"""Damage to what a shard has stored, behind everybody's back."""

from __future__ import annotations

from shoal_worker.environment import Environment, Transaction

__all__ = ["flip_bit"]


def flip_bit(environment: Environment, name: str, place: int, byte: int) -> None:
    """Flip a bit of one of a database's values, if it has any."""

    def flip(txn: Transaction) -> None:
        with txn.cursor(db=environment.databases[name]) as cursor:
            items = [(bytes(key), bytes(value)) for key, value in cursor]
        if items:
            key, value = items[place % len(items)]
            flipped = bytearray(value)
            flipped[byte % len(value)] ^= 4
            txn.put(key, bytes(flipped), db=environment.databases[name])

    environment.write(flip)
