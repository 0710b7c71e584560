from angarium.agents.agent import Agent as Agent
from angarium.agents.agent import Skill as Skill
from angarium.agents.agent import ask as ask
from angarium.agents.agent import handoff as handoff
from angarium.agents.contract import Done as Done
from angarium.agents.contract import Handoff as Handoff
from angarium.agents.contract import Status as Status
from angarium.agents.contract import Text as Text
from angarium.agents.contract import Turn as Turn

__version__: str
