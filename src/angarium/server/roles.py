"""What a user id says about its owner."""

from angarium.ids import UserId
from angarium.model.conversation import Participant, Role

GHOST_PREFIX = "@wa_"  # Contacts of the bridge; `bridge/identity.py` makes these ids.


class Roles:
    """Role by user id: the gateway's account, the bridge's ghosts, everybody else."""

    def __init__(self, gateway: UserId) -> None:
        self.gateway = gateway

    def of(self, user: str) -> Role:
        if user == self.gateway:
            return "agent"
        return "bridge" if user.startswith(GHOST_PREFIX) else "person"

    def participant(self, user: UserId) -> Participant:
        return Participant(user, self.of(user))
