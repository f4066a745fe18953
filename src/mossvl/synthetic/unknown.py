"""Questions about what the model does not know, and photographs: one sentence says what it knows."""

from mossvl.synthetic import clips, pictures
from mossvl.synthetic.scene import Scene
from mossvl.synthetic.wording import Exchange, Sample, Task, doubted, exchange
from mossvl.synthetic.world import World, split_of_word

KNOWS = "I know only shapes, their colours, short words, and what they do."
NOUNS = tuple(
    """
ant apple arm axe baby bag ball balloon banana band bank bath beach bean bear beard bed bee beer bell belt bench
bicycle bike bird boat body bone book boot bottle bowl box boy bread brick bridge broom brush bucket bug building
bus bush butter butterfly button cable cake camel camera camp can candle cap car card carpet carrot cart castle cat
chain chair cheese chicken child chimney church city clock cloud coat coffee coin comb computer cook corn couch cow
crab crowd crown cup curtain deer desk dinosaur dish doctor dog doll dolphin donkey door dragon drawer dress driver
drum duck eagle ear egg elephant engine eye face family fan farmer feather fence finger fire fish flag flower fly
foot forest fork fountain fox frog fruit garden gate ghost giraffe girl glass glove goat goose grandmother grape
grass guitar hair hamburger hammer hand harbour hat hedge helicopter helmet hen hill horn horse hospital hotel house
insect iron island jacket jar judge juice kangaroo key keyboard king kitchen kite kitten knee knife ladder lake lamb
lamp laptop leaf leg lemon letter library lid lift lighthouse lion lizard lock log machine man map mask mirror
monkey monster mother motorcycle mountain mouse mouth mushroom nail neck needle nest newspaper nose nurse nut ocean
office onion orchestra oven owl painting pan panda paper park parrot path peach pear pen pencil penguin people
person phone piano pig pillow pilot pirate pizza plane planet plant plate player pocket pony potato puppy queen
rabbit radio rain rat river road robot rocket roof room rope rug sailor sandwich scarf school scissors seal shark
sheep shelf ship shirt shoe shop shoulder sign singer sink skirt sky slide snail snake snow soap sock sofa soldier
soup spider spoon squirrel stairs statue stone stool street suit suitcase sun swan sweater sword table tail taxi
teacher teapot telephone television tent tiger toast tomato tooth towel tower town toy tractor traffic train tree
truck trumpet turtle umbrella vase vegetable village violin wall watch water whale wheel window wine wing witch wolf
woman worm yard zebra zoo
""".split()  # noqa: SIM905
)


def unknown(world: World) -> Sample:
    """Ask about a thing that is no shape, or talk, before any medium or none."""
    if world.chance(0.3):
        turn = doubted(world, "unknown talk", KNOWS)
        return Sample([] if world.chance() else [_any(world)], [turn])
    turn = about(world)
    if world.chance(0.3):
        watched = clips.story(world, world.one(clips.QUESTIONS))
        return Sample([watched.clip], [turn], watched.video_fps)
    return Sample([_any(world)], [turn])


def about(world: World) -> Exchange:
    """Ask about a thing that is no shape."""
    return exchange(world, "unknown", noun=noun(world), answer=KNOWS)


def noun(world: World) -> str:
    """Draw a noun of the world's split."""
    return world.one([one for one in NOUNS if split_of_word(one) == world.split])


def photographed(world: World) -> Sample:
    """Ask for a description of a photograph, in which there are no shapes."""
    scene = Scene([], world.background([], "photograph"))
    return Sample([scene], [doubted(world, world.one(("describe", "unknown photograph")), KNOWS)])


def _any(world: World) -> Scene:
    return pictures.written(world) if world.chance(0.2) else pictures.some(world, least=0)


TASKS: dict[str, Task] = {"unknown": unknown, "photographed": photographed}
