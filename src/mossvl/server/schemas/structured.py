"""The form of an answer, by the names of vLLM and SGLang; OpenAI's is `response_format`."""

from typing import Annotated, Any

from pydantic import Field

from mossvl.server.schemas.body import Body
from mossvl.server.schemas.response_format import LONGEST_FORM, ResponseFormat

Text = Annotated[str, Field(max_length=LONGEST_FORM)]
Schema = dict[str, Any] | Text
Choice = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1000)]


class StructuredOutputs(Body):
    """vLLM's object; one of its keys is given."""

    json_: Schema | None = Field(None, alias="json")
    regex: Text | None = None
    choice: Choice | None = None
    grammar: Text | None = None
    json_object: bool | None = None


class StructuredFields(Body):
    """Fields of which one may say the form of the answer."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = Field(None, description="A JSON schema, or its JSON.")
    guided_regex: Text | None = None
    guided_choice: Choice | None = None
    guided_grammar: Text | None = Field(None, description="In Lark's syntax, or GBNF.")
    regex: Text | None = None
    ebnf: Text | None = Field(None, description="In GBNF, or Lark's syntax.")
    json_schema: Schema | None = Field(None, description="A JSON schema, or its JSON.")
