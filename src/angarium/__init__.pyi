from angarium.agents.agent import Agent as Agent
from angarium.agents.agent import ask as ask
from angarium.agents.agent import handoff as handoff
from angarium.agents.agent import skill as skill
from angarium.agents.contract import Done as Done
from angarium.agents.contract import Handoff as Handoff
from angarium.agents.contract import Media as Media
from angarium.agents.contract import Skill as Skill
from angarium.agents.contract import Status as Status
from angarium.agents.contract import Text as Text
from angarium.agents.contract import Turn as Turn
from angarium.agents.declared import EvalCase as EvalCase
from angarium.agents.declared import Routing as Routing
from angarium.agents.kinds.llm import LLM as LLM
from angarium.agents.mcp import MCP as MCP
from angarium.agents.toolbox import Tool as Tool
from angarium.agents.toolbox import ToolContext as ToolContext
from angarium.agents.toolbox import tool as tool

__version__: str
