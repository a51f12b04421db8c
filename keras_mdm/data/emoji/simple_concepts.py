"""The quickstart's concepts: simple, distinct objects, chosen by hand.

The rule: a person can name the drawings at a glance, and they stay distinct at 16 pixels, so that
"which drawing is nearest to this sample?" has one answer. The list holds hearts and plain coloured
shapes, a few faces of clearly different colour or outline, animals, fruit and vegetables, dishes,
balls and games, plants, sky and weather, vehicles, and common objects. It leaves out people, flags,
keycaps, letters and signs, clock faces, arrows, buildings, and every drawing that resembles one
already listed: no two Twemoji drawings here are nearer to each other than `MINIMUM_DISTANCE`.
"""

# Root mean square difference between two drawings, over 16 x 16 x 3 values in 0..255. Of all 1,918
# drawings, 172 have another one nearer than 15, and half have one nearer than 41.
MINIMUM_DISTANCE = 36.0

_HEARTS = (
    "red heart, orange heart, yellow heart, green heart, blue heart, purple heart, black heart, "
    "pink heart, broken heart"
)

_SHAPES = (
    "red circle, orange circle, yellow circle, green circle, blue circle, black circle, "
    "red square, orange square, yellow square, green square, blue square, purple square, "
    "black large square, large blue diamond, red triangle pointed up, star, large orange diamond"
)

_FACES = (
    "grinning face, smiling face with heart-eyes, smiling face with sunglasses, "
    "loudly crying face, cowboy hat face, face with medical mask, face screaming in fear, alien, "
    "alien monster, robot, ghost, skull, ogre, clown face"
)

_ANIMALS = (
    "mouse face, cow face, tiger face, cat face, horse face, monkey face, dog face, pig face, "
    "frog, bear, panda, lion, fox, eagle, owl, zebra, penguin, baby chick, bird, parrot, "
    "flamingo, elephant, giraffe, turtle, snake, octopus, crab, fish, tropical fish, "
    "spouting whale, snail, butterfly, honeybee, lady beetle, spider, koala, wolf, rabbit face, "
    "raccoon, unicorn, deer, duck, shark, gorilla, lobster, dolphin, scorpion, hedgehog, "
    "crocodile, sauropod"
)

_PLANTS = (
    "deciduous tree, palm tree, cactus, tulip, rose, hibiscus, sunflower, four leaf clover, "
    "maple leaf, seedling, mushroom, potted plant, herb"
)

_FOOD = (
    "red apple, green apple, pear, tangerine, lemon, lime, banana, pineapple, grapes, melon, "
    "watermelon, strawberry, cherries, blueberries, kiwi fruit, avocado, tomato, eggplant, "
    "carrot, ear of corn, hot pepper, bell pepper, broccoli, bread, croissant, pretzel, pancakes, "
    "cheese wedge, poultry leg, hamburger, french fries, pizza, hot dog, cooked rice, rice ball, "
    "ice cream, doughnut, cookie, birthday cake, chocolate bar, candy, lollipop, popcorn, "
    "hot beverage, teapot, wine glass, beer mug, mango, coconut, cucumber, leafy green, cooking, "
    "cut of meat, sandwich, sushi, cupcake"
)

_SPORT_AND_GAMES = (
    "soccer ball, basketball, american football, baseball, tennis, pool 8 ball, boxing glove, "
    "trophy, sports medal, bullseye, game die, puzzle piece, kite, balloon, wrapped gift, "
    "Christmas tree, jack-o-lantern, teddy bear, video game, spade suit, diamond suit, bowling, "
    "yarn, crystal ball"
)

_SKY = (
    "sun, crescent moon, cloud with rain, rainbow, umbrella, snowman, high voltage, fire, "
    "droplet, water wave, ringed planet, globe showing Americas, volcano, sunrise, milky way, "
    "tornado"
)

_VEHICLES = (
    "automobile, taxi, fire engine, tractor, locomotive, tram car, bicycle, rocket, helicopter, "
    "airplane, flying saucer, parachute, sailboat, anchor, wheel, bus, oncoming bus, ambulance, "
    "police car, motorcycle, canoe, high-speed train"
)

_OBJECTS = (
    "light bulb, key, locked, bell, hammer, gear, magnet, scissors, pencil, closed book, "
    "blue book, camera, television, mobile phone, headphone, guitar, trumpet, drum, crown, "
    "top hat, t-shirt, jeans, scarf, high-heeled shoe, running shoe, backpack, gem stone, bomb, "
    "money bag, shield, door, chair, bucket, hourglass done, compass, vertical traffic light, "
    "ring buoy, magnifying glass tilted left, red paper lantern, ribbon, telephone, watch, socks, "
    "billed cap, hiking boot, glasses, floppy disk, nazar amulet, violin, brick, wood, open book, "
    "axe, moai"
)

SIMPLE_CONCEPTS: tuple[str, ...] = tuple(
    name
    for theme in (
        _HEARTS,
        _SHAPES,
        _FACES,
        _ANIMALS,
        _PLANTS,
        _FOOD,
        _SPORT_AND_GAMES,
        _SKY,
        _VEHICLES,
        _OBJECTS,
    )
    for name in theme.split(", ")
)
