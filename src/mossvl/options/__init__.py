"""Options of queries and engines: their names, defaults and limits, each defined once."""

from mossvl.options.engine import EngineConfig as EngineConfig
from mossvl.options.media import MediaOptions as MediaOptions
from mossvl.options.media import Timestamps as Timestamps
from mossvl.options.sampling import GenerationOptions as GenerationOptions
from mossvl.options.sampling import SamplingParams as SamplingParams
