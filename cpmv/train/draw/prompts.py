"""What is asked and how: names of colours, shapes, places and directions, and many wordings of each question.

A template is a string with up to two slots, `{0}` and `{1}`, in the order of the text. Which values fill the slots is
decided by the generator that uses the question kind (`scene.py`, `clip.py`, `talk.py`). English is language 0,
Chinese 1.
"""

from __future__ import annotations

COLOURS = {  # name, Chinese name, RGB
    "red": ("红色", (214, 36, 36)),
    "orange": ("橙色", (243, 134, 20)),
    "yellow": ("黄色", (244, 218, 44)),
    "green": ("绿色", (38, 156, 62)),
    "blue": ("蓝色", (38, 78, 214)),
    "purple": ("紫色", (128, 46, 168)),
    "pink": ("粉色", (246, 144, 188)),
    "brown": ("棕色", (122, 72, 34)),
    "black": ("黑色", (16, 16, 16)),
    "white": ("白色", (246, 246, 246)),
}
SHAPES = {  # name: plural, Chinese
    "circle": ("circles", "圆形"),
    "square": ("squares", "正方形"),
    "triangle": ("triangles", "三角形"),
    "cross": ("crosses", "十字"),
    "star": ("stars", "星形"),
    "ring": ("rings", "圆环"),
}
# Never drawn nor asked about in training: they measure whether colour and shape are understood apart.
HELD_OUT_PAIRS = (("purple", "star"), ("orange", "cross"), ("brown", "ring"), ("pink", "square"))

PLACES = {
    "top left": "左上", "top": "上方", "top right": "右上",
    "left": "左边", "center": "中间", "right": "右边",
    "bottom left": "左下", "bottom": "下方", "bottom right": "右下",
}  # fmt: skip
DIRECTIONS = {  # clockwise from right; y grows downward
    "right": "向右", "down right": "向右下", "down": "向下", "down left": "向左下",
    "left": "向左", "up left": "向左上", "up": "向上", "up right": "向右上",
}  # fmt: skip
YES_NO = (("yes", "no"), ("是", "否"))
NOTHING = ("nothing", "没有")

READ = (
    (
        "Read the text.", "What does it say?", "What is written here?", "Transcribe the text.", "Read this.",
        "What text is in the picture?", "Write down the text you see.", "What does the image say?", "OCR:",
        "Please read the text in the image.", "Copy the text exactly.", "Which text is shown?", "Text?",
        "Type out what is written.", "Can you read this for me?", "Give me the words in the picture.",
    ),
    (
        "请读出图中的文字。", "图片里写了什么？", "识别文字。", "这里写的是什么？", "请写出图中的文字内容。",
        "读一下。",
        "图中文字是什么？", "请把图里的字写出来。", "上面写着什么？", "文字内容？",
    ),
)  # fmt: skip

# Scene questions. Slots: c colour, s shape, p plural shape, o "red circle", os "red circles", w place.
SCENE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "count": (
        (
            "How many shapes are there?", "How many objects are in the picture?", "Count the shapes.",
            "What is the number of objects?", "How many things do you see?", "Count all objects.",
        ),
        ("图中有几个图形？", "一共有多少个物体？", "数一数有几个图形。", "图形的总数是多少？"),
    ),
    "count_colour": (
        (
            "How many {0} shapes are there?", "How many {0} objects do you see?", "Count the {0} shapes.",
            "How many shapes are {0}?", "What is the number of {0} objects?",
        ),
        ("有几个{0}的图形？", "{0}的物体有多少个？", "数一数{0}的图形。"),
    ),
    "count_shape": (
        ("How many {0} are there?", "Count the {0}.", "How many {0} do you see?", "What is the number of {0}?"),
        ("有几个{0}？", "图中{0}的数量是多少？", "数一数{0}有几个。"),
    ),
    "count_pair": (
        ("How many {0} are there?", "Count the {0}.", "How many {0} can you see?"),
        ("有几个{0}？", "图中有多少个{0}？"),
    ),
    "colour_of": (
        (
            "What colour is the {0}?", "What color is the {0}?", "Which colour does the {0} have?",
            "Name the colour of the {0}.", "The {0} is which color?", "Tell me the color of the {0}.",
        ),
        ("{0}是什么颜色？", "图中{0}的颜色是什么？", "请说出{0}的颜色。"),
    ),
    "shape_of": (
        (
            "What shape is the {0} object?", "Which shape is {0}?", "What is the {0} thing?",
            "Name the shape of the {0} object.", "What kind of shape is the {0} one?",
        ),
        ("{0}的是什么形状？", "{0}的物体是什么图形？", "请说出{0}图形的形状。"),
    ),
    "exists": (
        (
            "Is there a {0}?", "Do you see a {0}?", "Does the picture show a {0}?", "Can you find a {0}?",
            "Is a {0} in the image?",
        ),
        ("图中有{0}吗？", "有没有{0}？是或否？", "能看到{0}吗？"),
    ),
    "left_of": (
        ("Is the {0} left of the {1}?", "Is the {0} to the left of the {1}?", "The {0} is left of the {1}: yes or no?"),
        ("{0}在{1}的左边吗？", "{0}是否在{1}左边？"),
    ),
    "right_of": (
        ("Is the {0} right of the {1}?", "Is the {0} to the right of the {1}?"),
        ("{0}在{1}的右边吗？", "{0}是否在{1}右边？"),
    ),
    "above": (
        ("Is the {0} above the {1}?", "Is the {0} higher than the {1}?"),
        ("{0}在{1}的上面吗？", "{0}是否在{1}上方？"),
    ),
    "below": (
        ("Is the {0} below the {1}?", "Is the {0} lower than the {1}?"),
        ("{0}在{1}的下面吗？", "{0}是否在{1}下方？"),
    ),
    "what_at": (
        ("What is at the {0}?", "Which object is at the {0}?", "What do you see at the {0}?",
            "Name the shape at the {0}."),
        ("{0}是什么？", "图中{0}有什么？", "{0}的图形是什么？"),
    ),
    "where_is": (
        ("Where is the {0}?", "In which part is the {0}?", "Where can I find the {0}?", "Position of the {0}?"),
        ("{0}在哪里？", "{0}在什么位置？", "{0}在图中哪里？"),
    ),
    "largest": (
        ("Which shape is the largest?", "What is the biggest object?", "Which object is the largest?",
            "Name the biggest shape."),
        ("最大的图形是什么？", "哪个物体最大？"),
    ),
    "smallest": (
        ("Which shape is the smallest?", "What is the smallest object?", "Which object is the smallest?"),
        ("最小的图形是什么？", "哪个物体最小？"),
    ),
    "leftmost": (
        ("Which shape is furthest left?", "What is the leftmost object?", "Which object is closest to the left edge?"),
        ("最左边的图形是什么？", "哪个物体在最左边？"),
    ),
    "rightmost": (
        ("Which shape is furthest right?", "What is the rightmost object?"),
        ("最右边的图形是什么？", "哪个物体在最右边？"),
    ),
    "describe": (
        (
            "Describe the picture.", "What is in the picture?", "List all objects.", "What do you see?",
            "Describe what you see.", "Name every shape in the image.", "What does this image show?",
        ),
        ("描述这张图片。", "图中有什么？", "请列出所有图形。", "你看到了什么？", "请描述图片内容。"),
    ),
}  # fmt: skip

# Clip questions. Slots: c colour.
CLIP: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "direction": (
        (
            "Which way does the {0} shape move?", "In which direction does the {0} object move?",
            "Where is the {0} shape moving?", "What is the direction of the {0} object?",
            "Which way is the {0} one going?",
        ),
        ("{0}的图形向哪个方向移动？", "{0}的物体往哪里走？", "{0}图形的移动方向是什么？"),
    ),
    "faster": (
        ("Which shape is faster?", "Which object moves faster?", "What colour is the faster shape?",
            "Which one is quicker?"),
        ("哪个图形更快？", "哪个物体移动得更快？"),
    ),
    "slower": (
        ("Which shape is slower?", "Which object moves more slowly?", "What colour is the slower shape?"),
        ("哪个图形更慢？", "哪个物体移动得更慢？"),
    ),
    "first": (
        ("Which shape appears first?", "Which object was there first?", "What colour is the shape that appears first?"),
        ("哪个图形先出现？", "先出现的是什么颜色的图形？"),
    ),
    "last": (
        ("Which shape appears last?", "Which object comes later?", "What colour is the shape that appears last?"),
        ("哪个图形后出现？", "后出现的是什么颜色的图形？"),
    ),
    "moves": (
        ("Does the {0} shape move?", "Is the {0} object moving?", "Does the {0} one change its place?"),
        ("{0}的图形在移动吗？", "{0}的物体动了吗？"),
    ),
    "shape": (
        ("What shape is the {0} object?", "Which shape is {0}?", "What is the {0} moving thing?"),
        ("{0}的是什么形状？", "{0}的物体是什么图形？"),
    ),
}  # fmt: skip

# Text-only questions. Slots: words or numbers.
TALK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "add": (
        ("What is {0} + {1}?", "{0}+{1}=?", "Add {0} and {1}.", "How much is {0} plus {1}?", "{0} plus {1}?"),
        ("{0}加{1}等于多少？", "{0}+{1}=？", "请计算{0}加{1}。"),
    ),
    "subtract": (
        ("What is {0} - {1}?", "{0}-{1}=?", "How much is {0} minus {1}?", "{0} minus {1}?"),
        ("{0}减{1}等于多少？", "{0}-{1}=？"),
    ),
    "multiply": (
        ("What is {0} times {1}?", "{0}*{1}=?", "Multiply {0} by {1}.", "How much is {0} x {1}?"),
        ("{0}乘{1}等于多少？", "{0}乘以{1}是多少？"),
    ),
    "larger": (
        ("Which is larger, {0} or {1}?", "What is the bigger number: {0} or {1}?", "Larger of {0} and {1}?"),
        ("{0}和{1}哪个更大？", "{0}与{1}中较大的是哪个？"),
    ),
    "is_larger": (
        ("Is {0} greater than {1}?", "Is {0} more than {1}?", "{0} > {1}? Yes or no."),
        ("{0}比{1}大吗？", "{0}大于{1}吗？"),
    ),
    "next": (
        ("What number comes after {0}?", "Which number follows {0}?", "{0}, and then?"),
        ("{0}后面的数是多少？", "{0}的下一个数是什么？"),
    ),
    "copy": (
        ("Repeat: {0}", "Say exactly: {0}", "Copy this: {0}", "Write: {0}", "Repeat after me: {0}"),
        ("请重复：{0}", "照着写：{0}", "请写：{0}"),
    ),
    "upper": (
        ("Write {0} in capital letters.", "Put {0} in upper case.", "{0} in capitals?"),
        ("把{0}改成大写。", "用大写写出{0}。"),
    ),
    "quote": (
        ("Write {0} in quotes.", "Put {0} in quotation marks."),
        ("给{0}加上引号。",),
    ),
    "first_word": (
        ("What is the first word of: {0} {1}", "First word only: {0} {1}", "Which word comes first? {0} {1}"),
        ("第一个词是什么：{0} {1}", "只写第一个词：{0} {1}"),
    ),
    "last_word": (
        ("What is the last word of: {0} {1}", "Last word only: {0} {1}", "Which word comes last? {0} {1}"),
        ("最后一个词是什么：{0} {1}", "只写最后一个词：{0} {1}"),
    ),
    "swap": (
        ("Swap the two words: {0} {1}", "Write in reverse order: {0} {1}"),
        ("交换两个词：{0} {1}",),
    ),
    "list": (
        ("List these: {0} and {1}", "Make a list of {0} and {1}."),
        ("列出：{0}和{1}",),
    ),
    "json": (
        ("Write JSON with key {0} and value {1}.", "JSON: key {0}, value {1}"),
        ("用JSON写：键{0}，值{1}",),
    ),
}  # fmt: skip

# Fixed questions and answers; every question of a row takes any answer of the row. {lang: rows}
SMALL_TALK: tuple[tuple[tuple[tuple[str, ...], tuple[str, ...]], ...], ...] = (
    (
        (("Hello!", "Hi!", "Hi there.", "Hello.", "Hey!"), ("Hello! How can I help you?",)),
        (("Good morning!", "Good morning."), ("Good morning! How can I help you?",)),
        (("Good evening!",), ("Good evening! How can I help you?",)),
        (("How are you?", "How are you today?", "How is it going?"), ("I am well, thank you. What can I do for you?",)),
        (("Thank you!", "Thanks!", "Thanks a lot.", "Thank you very much."), ("You are welcome!",)),
        (("Goodbye!", "Bye!", "See you later."), ("Goodbye!",)),
        (("Who are you?", "What are you?", "Introduce yourself."),
            ("I am a small model that reads pictures and short clips.",)),
        (("What is your name?", "Do you have a name?"), ("I am the tiny model of cpmv.",)),
        (
            ("What can you do?", "How can you help me?", "What are you able to do?", "Help!"),
            ("I read text, describe simple shapes and follow motion in clips.",),
        ),
        (("What can you see?", "What can you recognise?"), ("Printed text, simple shapes and moving objects.",)),
        (
            ("Can you recognise people?", "Do you know faces?", "Who is this person?", "Can you see animals?",
             "Can you describe a photo?"),
            ("No. I have never seen a photograph.",),
        ),
        (
            ("Have you seen photographs?", "Did you learn from photos?", "Do you know photos?"),
            ("No. I learned from drawn pictures only.",),
        ),
        (
            ("Read the text.", "What is in the picture?", "Describe the picture.", "How many shapes are there?",
             "What do you see?", "What does it say?", "Which way does it move?", "What colour is it?"),
            ("I see no picture. Please send one.",),
        ),
        (("Can you read text?", "Are you able to read?"), ("Yes, I can read printed text.",)),
        (("Can you hear me?", "Can you listen to music?"), ("No, I only work with text and pictures.",)),
        (("Can you read handwriting?",), ("Hardly. I learned printed faces only.",)),
        (("Do you speak Chinese?",), ("Yes, a little.",)),
        (("Are you a human?", "Are you a person?"), ("No, I am a small language model.",)),
        (("How large are you?", "How many parameters do you have?"), ("I have about 20 million parameters.",)),
        (("Do you make mistakes?", "Are you always right?"), ("Yes, I can be wrong. Please check what matters.",)),
        (("What day is it?", "What time is it?", "What is the weather?"),
            ("I do not know. I have no access to that.",)),
        (("How many days are in a week?", "How many days does a week have?"), ("7",)),
        (("How many months are in a year?",), ("12",)),
        (("How many hours are in a day?",), ("24",)),
        (("How many minutes are in an hour?",), ("60",)),
        (("Answer with one word: is ice cold or hot?", "Is ice cold or hot?"), ("cold",)),
        (("What is the opposite of left?",), ("right",)),
        (("What is the opposite of up?",), ("down",)),
        (("What is the opposite of yes?",), ("no",)),
        (("How many corners does a square have?", "How many sides does a square have?"), ("4",)),
        (("How many corners does a triangle have?", "How many sides does a triangle have?"), ("3",)),
        (("Name a colour.", "Tell me a colour."), ("blue",)),
        (("Name a shape.", "Tell me a shape."), ("circle",)),
        (("Count from 1 to 5.", "Count to five."), ("1, 2, 3, 4, 5",)),
        (("Say nothing but OK.", "Answer with OK.", "Only say OK."), ("OK",)),
    ),
    (
        (("你好！", "你好。", "您好！"), ("你好！有什么可以帮你？",)),
        (("早上好！",), ("早上好！有什么可以帮你？",)),
        (("谢谢！", "谢谢你。", "多谢！"), ("不客气！",)),
        (("再见！",), ("再见！",)),
        (("你是谁？", "请介绍一下你自己。"), ("我是一个小模型，能看图片和短视频。",)),
        (("你叫什么名字？",), ("我是cpmv的小模型。",)),
        (("你能做什么？", "你会什么？"), ("我能读文字，认识简单的图形，也能看出运动的方向。",)),
        (("你能认人吗？", "你认识这个人吗？", "你能看照片吗？"), ("不能。我没有见过照片。",)),
        (
            ("图片里有什么？", "请读出图中的文字。", "描述这张图片。", "你看到了什么？", "有几个图形？"),
            ("我没有看到图片，请发一张。",),
        ),
        (("你会读文字吗？",), ("会，我能读印刷的文字。",)),
        (("你会说英文吗？",), ("会一点。",)),
        (("你是人吗？",), ("不是，我是一个小语言模型。",)),
        (("你会出错吗？", "你总是对的吗？"), ("会的，重要的内容请再检查。",)),
        (("今天天气怎么样？", "现在几点？", "今天几号？"), ("我不知道，我看不到这些信息。",)),
        (("一个星期有几天？", "一周有多少天？"), ("7",)),
        (("一年有几个月？",), ("12",)),
        (("一天有多少小时？",), ("24",)),
        (("正方形有几条边？",), ("4",)),
        (("三角形有几条边？",), ("3",)),
        (("左的反面是什么？",), ("右",)),
        (("从一数到五。",), ("一、二、三、四、五",)),
        (("只回答好。",), ("好",)),
    ),
)  # fmt: skip
