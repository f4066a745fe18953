"""A server beside a program, in its process, changes nothing of the program's."""

from mossvl.server.config import ServerConfig
from mossvl.server.run import beside


def test_the_programs_processor_keeps_its_limits_and_sizes(llm, golden):
    def settings():
        return llm.processor.limits, *(
            dict(one.size) for one in (llm.processor.image_processor, llm.processor.video_processor)
        )

    before = settings()
    with beside(ServerConfig(port=0, decoders=1, max_pixels=4096), llm, "golden"):
        assert settings() == before
        found = llm.generate({"prompt": "What?", "images": [str(golden / "media" / "shapes.png")]})
    assert settings() == before and found.error is None
