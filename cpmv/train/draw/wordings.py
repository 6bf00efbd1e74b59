"""Wordings of the questions about several pictures, clips and tasks that reward thinking, English then Chinese.

As in `prompts.py` and `questions.py`: training and evaluation ask from the same tables, layouts stay apart. Slots {0},
{1} are filled by the generator.
"""

from __future__ import annotations

Templates = dict[str, tuple[tuple[str, ...], tuple[str, ...]]]

SEVERAL: Templates = {
    "changed": (
        (
            "What changed?", "What is different in the second picture?", "What changed between the two pictures?",
            "Compare the pictures. What changed?", "Find the difference.", "Spot the change.", "Difference?",
            "Which change was made from the first to the second picture?", "What happened between these pictures?",
            "Please tell me what is new, gone or different in picture 2.", "Name the one difference.",
            "How does the second picture differ from the first?", "What has changed from picture 1 to picture 2?",
        ),
        ("有什么变化？", "两张图有什么不同？", "第二张图有什么变化？", "请找出不同。", "比较两张图片，什么变了？",
         "从第一张到第二张，发生了什么变化？", "说出唯一的不同之处。"),
    ),
    "same_text": (
        (
            "Do both pictures say the same?", "Is the text the same in both pictures?", "Same text: yes or no?",
            "Are the two texts equal?", "Do the pictures show the same words?", "Is the same thing written twice?",
            "Does picture 2 repeat the text of picture 1?", "Are both texts identical?", "Compare the texts. Same?",
            "Is there no difference between the two texts?", "Do these two read the same?",
            "Please check whether both texts agree.",
        ),
        (
            "两张图的文字相同吗？", "两张图写的一样吗？", "文字是否相同？", "两段文字一样吗？是或否？",
            "第二张图的文字和第一张一样吗？", "请比较两张图的文字，相同吗？",
        ),
    ),
    "read_one": (
        (
            "What does picture {0} say?", "Read the text of picture {0}.", "Read picture {0}.", "Text of picture {0}?",
            "What is written in picture {0}?", "Transcribe picture {0} only.", "Which text does picture {0} show?",
            "Please read picture {0}.", "Give me the words in picture {0}.", "Picture {0}: what does it say?",
            "Write down the text of picture {0}.", "Only picture {0}: read it.",
        ),
        (
            "第{0}张图写了什么？", "请读出第{0}张图的文字。", "读第{0}张图。", "第{0}张图片的文字是什么？",
            "只读第{0}张图。", "写出第{0}张图里的字。",
        ),
    ),
    "which_contains": (
        (
            "Which picture shows a {0}?", "In which picture is a {0}?", "Which picture has a {0}?",
            "Where is a {0}: which picture?", "Find the picture with a {0}.", "Number of the picture with a {0}?",
            "Which of these pictures contains a {0}?", "A {0} is in which picture?", "Give the picture with a {0}.",
            "Tell me which picture a {0} is in.", "Look for a {0}. Which picture?", "In which one do you see a {0}?",
        ),
        (
            "哪张图里有{0}？", "{0}在第几张图？", "第几张图中有{0}？", "请找出有{0}的图片。", "哪一张图片包含{0}？",
            "有{0}的是第几张？",
        ),
    ),
    "which_says": (
        (
            "Which picture says {0}?", "In which picture is {0} written?", "Which picture has the word {0}?",
            "Where is {0} written: which picture?", "Find {0}. Which picture?", "Number of the picture that says {0}?",
            "Which of the pictures reads {0}?", "{0} is in which picture?", "Give the picture with the text {0}.",
            "Tell me which picture shows {0}.", "Look for {0}. Which picture is it?", "In which one do you read {0}?",
        ),
        (
            "哪张图写着{0}？", "{0}在第几张图？", "第几张图里有{0}这个词？", "请找出写着{0}的图片。",
            "写有{0}的是第几张？", "哪一张的文字是{0}？",
        ),
    ),
    "sum_receipts": (
        (
            "What do both receipts cost together?", "Add the two totals.", "What is the sum of both totals?",
            "How much was paid in all?", "Total of both receipts?", "What do the two receipts add up to?",
            "Sum the totals of the receipts.", "How much money do the two receipts come to?", "Both totals together?",
            "Please add up the receipts.", "What is total 1 plus total 2?", "Combined total, exactly?",
        ),
        (
            "两张小票一共多少钱？", "两张的总计加起来是多少？", "请把两个总计相加。", "一共付了多少钱？",
            "两张小票合计多少？", "总计之和是多少？",
        ),
    ),
    "which_costs_more": (
        (
            "Which receipt is higher?", "Which receipt costs more?", "Which picture shows the larger total?",
            "Which receipt has the bigger total?", "Number of the more expensive receipt?", "Which one was dearer?",
            "Compare the totals. Which is larger?", "On which receipt was more paid?", "Which total is the highest?",
            "Please name the receipt with the larger sum.", "Which receipt came to more money?", "Larger total: which?",
        ),
        (
            "哪张小票更贵？", "哪一张的总计更大？", "第几张小票金额更高？", "总计较大的是第几张？", "哪张付的钱更多？",
            "更贵的是第几张？",
        ),
    ),
    "order_by_size": (
        (
            "Order the pictures from the smallest to the largest shape.", "Sort the pictures by size, smallest first.",
            "Smallest to largest: which order?", "Rank the shapes by size, from small to large.", "Order by size.",
            "Put the pictures in order of size, starting with the smallest.", "From small to large, please.",
            "Which order do the sizes have, smallest first?", "List the pictures by size of the shape, small to large.",
            "Arrange the pictures from the smallest shape to the largest.", "Sort: smallest shape first.",
            "What is the order from the smallest to the largest?",
        ),
        (
            "请按图形从小到大排列图片。", "从小到大的顺序是什么？", "按大小排序，小的在前。", "图形从小到大是哪几张？",
            "请从最小到最大排序。", "按大小排列，先写最小的。",
        ),
    ),
    "how_many_show": (
        (
            "How many pictures show a {0}?", "In how many pictures is there a {0}?", "How many pictures have a {0}?",
            "Count the pictures with a {0}.", "Number of pictures with a {0}?", "A {0} is in how many pictures?",
            "How many of these pictures contain a {0}?", "How often do the pictures show a {0}?",
            "In how many of them do you see a {0}?", "How many of the pictures include a {0}?",
            "Please count the pictures that show a {0}.", "Pictures with a {0}: how many?",
        ),
        (
            "有几张图里有{0}？", "多少张图片中有{0}？", "数一数有{0}的图片。", "几张图出现了{0}？",
            "{0}出现在几张图里？", "有{0}的图片一共几张？",
        ),
    ),
    "more_shapes": (
        (
            "Which picture has more shapes?", "Which picture shows more objects?", "Where are more shapes?",
            "Which picture has the most objects?", "In which picture do you count more shapes?", "More shapes: which?",
            "Which picture holds the larger number of shapes?", "Compare the numbers. Which picture has more?",
            "Number of the picture with more shapes?", "Which one is fuller?", "Which image contains more things?",
            "Please name the picture with more shapes.",
        ),
        (
            "哪张图的图形更多？", "第几张图里物体更多？", "图形较多的是第几张？", "哪一张的图形数量更多？",
            "比较数量，哪张更多？", "更多图形在哪张图？",
        ),
    ),
    "describe_one": (
        (
            "Describe picture {0}.", "What is in picture {0}?", "What does picture {0} show?",
            "List all of picture {0}.", "What do you see in picture {0}?", "Name the shapes in picture {0}.",
            "Picture {0}: describe it.", "Tell me what picture {0} contains.", "Only picture {0}: what is there?",
            "Which shapes are in picture {0}?", "Please describe picture number {0}.",
            "Give the contents of picture {0}.",
        ),
        (
            "描述第{0}张图。", "第{0}张图里有什么？", "第{0}张图片中有哪些图形？", "请描述第{0}张图片。",
            "你在第{0}张图看到了什么？", "只说第{0}张图的内容。",
        ),
    ),
}  # fmt: skip

EVENTS: Templates = {
    "count_flashes": (
        (
            "How many times does the {0} shape flash?", "Count the flashes of the {0} shape.",
            "How often does {0} flash?", "How many {0} flashes are there?",
            "How many times does something {0} light up?", "Number of {0} flashes?",
            "How many times does a {0} shape appear for a moment?", "How often do you see the {0} shape blink?",
            "Please count how often the {0} object shows up.", "The {0} light: how many flashes?",
            "How many times does the {0} one flash in the clip?", "Count: {0} flashes.",
        ),
        (
            "{0}的图形闪了几次？", "{0}闪了多少次？", "数一数{0}闪了几次。", "{0}的光闪现了几次？",
            "视频中{0}一共闪了几次？", "{0}的物体出现了几次？",
        ),
    ),
    "count_bounces": (
        (
            "How many times does the {0} shape bounce?", "Count the bounces.", "How often does it bounce?",
            "How many bounces are there?", "Number of bounces?", "How many times does it hit a wall?",
            "How often does the {0} object turn back?", "How many times does the {0} ball bounce off?",
            "Please count how often it bounces.", "How many times does it change direction?", "Bounces of the {0} one?",
            "How often does the {0} shape come back from a wall?",
        ),
        (
            "{0}的图形弹了几次？", "一共弹了几次？", "数一数它弹了多少次。", "{0}的物体反弹了几次？", "它撞到墙几次？",
            "改变了几次方向？",
        ),
    ),
    "which_flashed": (
        (
            "Which colour flashed?", "What colour was the flash?", "What appeared for a moment?",
            "Colour of the flash?", "Which colour lights up briefly?", "What color does the short flash have?",
            "Name the flash's colour.", "One shape shows up only for a moment. Which colour?",
            "Which colour did you see just once?", "What colour was the shape that flashed?",
            "Something flashed. Which colour was it?", "Tell me the color of the brief flash.",
        ),
        (
            "闪过的是什么颜色？", "闪光是什么颜色？", "短暂出现的是什么颜色？", "哪种颜色闪了一下？",
            "只出现一下的图形是什么颜色？", "请说出闪现的颜色。",
        ),
    ),
    "order": (
        (
            "In which order do the shapes appear?", "Order of appearance?", "Which colours appear, in order?",
            "List the colours in the order in which they appear.", "What appears first, second and third?",
            "Name the shapes in order of appearance.", "Give the sequence of colours.", "First to last: which colours?",
            "Which order do they come in?", "Sort the colours by when they appear.", "Who comes first, next and last?",
            "Please tell the order in which they show up.",
        ),
        (
            "图形按什么顺序出现？", "出现的顺序是什么？", "请按出现的先后写出颜色。", "先后出现的是哪些颜色？",
            "依次出现了什么颜色？", "按先后顺序说出颜色。",
        ),
    ),
    "nth": (
        (
            "Which shape appears {0}?", "What colour appears {0}?", "Which colour comes {0}?",
            "Which one is {0} to appear?", "What appears {0}?", "Name the colour that shows up {0}.", "Who comes {0}?",
            "Colour of the {0} to appear?", "Tell me which colour appears {0}.",
            "In order of appearance, which is {0}?", "Which object turns up {0}?",
            "Please name the one that comes {0}.",
        ),
        (
            "第{0}个出现的是什么颜色？", "第{0}个出现的图形是什么颜色？", "哪个颜色第{0}个出现？",
            "按顺序，第{0}个是什么颜色？", "请说出第{0}个出现的颜色。", "第{0}个是哪种颜色？",
        ),
    ),
    "swaps": (
        (
            "Where is the ball at the end?", "Under which cup is the ball?", "Where is the ball now?",
            "Follow the ball. Where does it end?", "Which cup hides the ball at the end?", "The ball ends where?",
            "After all swaps, where is the ball?", "Where would you look for the ball?", "Find the ball.",
            "Keep track of the ball: left, center or right?", "Which cup holds the ball, left, center or right?",
            "Please tell me where the ball is at the end.",
        ),
        (
            "球最后在哪里？", "球在哪个杯子下面？", "请跟着球看，最后它在哪里？", "交换之后球在哪里？",
            "现在球在左边、中间还是右边？", "最后球在哪个杯子里？",
        ),
    ),
    "card": (
        (
            "What does the card say?", "What is written on the moving card?", "Read the card.", "Text on the card?",
            "Which word is on the card?", "What does the sign say?", "Read the moving text.", "What text goes by?",
            "Please read what is on the card.", "Write down the text of the card.", "What is on the card?",
            "Transcribe the moving card.",
        ),
        (
            "卡片上写了什么？", "移动的卡片上写着什么？", "请读出卡片上的字。", "卡片上的文字是什么？",
            "牌子上写的是什么？", "读一下移动的文字。",
        ),
    ),
    "turn_after": (
        (
            "Which way does the {0} shape move after the turn?", "Which direction does it take after turning?",
            "Where does the {0} object go after it turns?", "Direction after the turn?", "After the turn, which way?",
            "It turns once. Which way does it go then?", "Which way does the {0} one move at the end?",
            "What is its last direction?", "In which direction does it move last?", "And after turning?",
            "Name the direction of the {0} shape after its turn.", "Which way does the {0} object leave the turn?",
        ),
        (
            "{0}的图形转弯后向哪个方向移动？", "转弯之后它往哪里走？", "转弯后的方向是什么？", "最后它向哪个方向移动？",
            "{0}的物体转弯后往哪走？", "它后来向哪个方向走？",
        ),
    ),
    "turn_before": (
        (
            "Which way does the {0} shape move before the turn?", "Which direction does it take at first?",
            "Where does the {0} object go before it turns?", "Direction before the turn?",
            "Before the turn, which way?", "It turns once. Which way did it go before?",
            "Which way does the {0} one move at the beginning?", "What is its first direction?",
            "In which direction does it move first?", "How does it start to move?",
            "Name the direction of the {0} shape before its turn.", "Which way does the {0} object begin to go?",
        ),
        ("{0}的图形转弯前向哪个方向移动？", "转弯之前它往哪里走？", "转弯前的方向是什么？", "开始时它向哪个方向移动？",
         "{0}的物体转弯前往哪走？", "它先向哪个方向走？"),
    ),
    "end_place": (
        (
            "Where does the {0} shape end?", "Where is the {0} object at the end?", "Where does it stop?",
            "Last place?", "In which part of the picture does the {0} one end?", "Where does the {0} shape arrive?",
            "It ends where?", "What is the final position of the {0} shape?", "Where do you see the {0} object last?",
            "Where does the movement end?", "Tell me where the {0} one ends up.", "At the end, where is the {0} shape?",
        ),
        (
            "{0}的图形最后在哪里？", "{0}的物体停在哪里？", "最后的位置是哪里？", "它最后停在什么位置？",
            "结束时{0}在哪里？", "{0}的图形到了哪里？",
        ),
    ),
    "start_place": (
        (
            "Where does the {0} shape start?", "Where is the {0} object at the beginning?", "Where does it start from?",
            "In which part of the picture does the {0} one begin?", "First place?", "It begins where?",
            "What is the first position of the {0} shape?", "Where do you see the {0} object first?",
            "Where does the movement begin?", "Tell me where the {0} one starts.", "At first, where is the {0} shape?",
            "Starting place of the {0} shape?",
        ),
        (
            "{0}的图形一开始在哪里？", "{0}的物体从哪里出发？", "开始的位置是哪里？", "它最初在什么位置？",
            "开始时{0}在哪里？", "{0}的图形从哪里来？",
        ),
    ),
    "speed_rank": (
        (
            "Order the shapes from the fastest to the slowest.", "Rank the colours by speed, fastest first.",
            "Fastest to slowest: which order?", "Sort the shapes by speed.", "Which order, from fast to slow?",
            "List the colours from the quickest to the slowest.", "Who is first, second and third in speed?",
            "Order by speed, fastest first.", "Give the ranking by speed.", "Compare the speeds, fastest first.",
            "Please rank them from fast to slow.", "From the fastest to the slowest, please.",
        ),
        (
            "请按速度从快到慢排列。", "从快到慢的顺序是什么？", "按速度排序，快的在前。",
            "哪个最快，哪个最慢？请从快到慢写出颜色。", "请从最快到最慢写出颜色。", "速度从快到慢是什么颜色？",
        ),
    ),
    "fastest": (
        (
            "Which shape is the fastest?", "Which colour moves fastest?", "What is the fastest colour?", "Fastest one?",
            "Which object is the quickest?", "Who wins in speed?", "Name the fastest shape's colour.",
            "Which of the three moves at the highest speed?", "Which one goes furthest?", "Colour of the fastest?",
            "Tell me the color of the quickest shape.", "Which shape covers the most ground?",
        ),
        (
            "哪个图形最快？", "最快的是什么颜色？", "什么颜色移动得最快？", "哪个物体速度最快？",
            "走得最远的是什么颜色？", "请说出最快的颜色。",
        ),
    ),
    "slowest": (
        (
            "Which shape is the slowest?", "Which colour moves slowest?", "What is the slowest colour?", "Slowest one?",
            "Which object is the least quick?", "Who is last in speed?", "Name the slowest shape's colour.",
            "Which of the three moves at the lowest speed?", "Which one goes the shortest way?",
            "Colour of the slowest?", "Tell me the color of the slowest shape.", "Which shape covers the least ground?",
        ),
        (
            "哪个图形最慢？", "最慢的是什么颜色？", "什么颜色移动得最慢？", "哪个物体速度最慢？",
            "走得最近的是什么颜色？", "请说出最慢的颜色。",
        ),
    ),
}  # fmt: skip

THINK: Templates = {
    "receipt_sum": (
        (
            "What is the total?", "What do the items cost together?", "Add up the prices.", "Sum of all prices?",
            "How much is everything?", "What is the sum of the prices?", "How much has to be paid?", "Total?",
            "Please add all the prices.", "What do all items cost in all?", "Work out the total.",
            "The total is missing. What is it?", "How much do these come to?",
        ),
        (
            "一共多少钱？", "所有商品加起来多少钱？", "请算出总价。", "价格之和是多少？", "总计是多少？",
            "要付多少钱？", "请把价格加起来。",
        ),
    ),
    "table_count": (
        (
            "How many rows have {0} {1}?", "How many have {0} {1}?", "Count the rows with {0} {1}.",
            "In how many rows is {0} {1}?", "How many names have {0} {1}?", "Number of rows with {0} {1}?",
            "For how many is {0} {1}?", "How many entries have {0} {1}?", "Please count those with {0} {1}.",
            "{0} {1}: how many?", "How often is {0} {1}?", "How many of them have {0} {1}?",
        ),
        (
            "有几行的{0}{1}？", "{0}{1}的有几个？", "数一数{0}{1}的行。", "多少行的{0}{1}？", "{0}{1}的一共有多少？",
            "有多少人的{0}{1}？",
        ),
    ),
    "chart_difference": (
        (
            "What is the difference between {0} and {1}?", "How far apart are {0} and {1}?",
            "{0} against {1}: what is the difference?", "By how much do {0} and {1} differ?",
            "Difference of {0} and {1}?", "How much lies between {0} and {1}?",
            "Compare {0} with {1}: what is the difference?", "How large is the gap between {0} and {1}?",
            "What is the gap from {0} to {1}?", "Please give the difference of {0} and {1}.",
            "How different are the values of {0} and {1}?", "{0} and {1}: difference, as a number?",
        ),
        (
            "{0}和{1}相差多少？", "{0}与{1}的差是多少？", "{0}和{1}之间差多少？", "请算出{0}和{1}的差。",
            "{0}、{1}两者相差几？", "比较{0}和{1}，差多少？",
        ),
    ),
    "arrows": (
        (
            "Start at {0} and follow {1} arrows. Where do you end?", "From {0}, take {1} steps. Where are you?",
            "Follow the arrows {1} times from {0}.", "Begin at {0}. Which box comes after {1} arrows?",
            "Where do {1} arrows lead from {0}?", "{1} steps from {0}: which box?", "Go {1} arrows on from {0}.",
            "Starting at {0}, which box is reached after {1} steps?", "After {1} arrows from {0}, where are you?",
            "Walk {1} steps along the arrows from {0}. Which box is it?", "{0}, then {1} arrows on: where?",
            "Please follow {1} arrows from {0} and name the box.",
        ),
        (
            "从{0}出发，走{1}步到哪里？", "从{0}开始，跟着箭头走{1}次，到哪个格？", "从{0}走{1}步是什么？",
            "沿着箭头从{0}走{1}步。", "{0}之后第{1}个是什么？", "从{0}出发，过{1}个箭头到哪里？",
        ),
    ),
    "days_between": (
        (
            "How many days from {0} to {1}?", "How many days lie between {0} and {1}?", "Days from {0} to {1}?",
            "How long is it from {0} to {1}, in days?", "What is the number of days from {0} to {1}?",
            "Count the days from {0} to {1}.", "{0} to {1}: how many days?", "How many days is it from {0} until {1}?",
            "How many days after {0} is {1}?", "By how many days do {0} and {1} differ?",
            "Please count the days between {0} and {1}.", "From {0} until {1}, how many days pass?",
        ),
        (
            "从{0}到{1}有几天？", "{0}到{1}相差多少天？", "{0}和{1}之间有多少天？", "从{0}到{1}一共多少天？",
            "请算出{0}到{1}的天数。", "{0}到{1}是几天？",
        ),
    ),
    "days_on_sheet": (
        (
            "How many days lie between the two dates?", "How many days from the first date to the second?",
            "How long is the time between the dates, in days?", "Count the days between the dates.", "How many days?",
            "What is the difference of the dates in days?", "By how many days do the dates differ?",
            "How many days apart are they?", "Days from the first to the second date?", "How many days does it last?",
            "Please work out the number of days.", "The dates are how many days apart?",
        ),
        (
            "两个日期相差几天？", "从第一个日期到第二个日期有多少天？", "一共多少天？", "两个日期之间有几天？",
            "请算出相差的天数。", "相差多少天？",
        ),
    ),
    "sum_text": (
        (
            "What is {0}?", "Add: {0}", "{0} = ?", "Compute {0}.", "Sum: {0}", "How much is {0}?", "Work out {0}.",
            "What does {0} give?", "Please add {0}.", "Result of {0}?", "Calculate {0}.", "{0}, in all?",
        ),
        ("{0}等于多少？", "请计算{0}。", "{0}=？", "算一算：{0}", "{0}是多少？", "求和：{0}"),
    ),
    "change_text": (
        (
            "I pay {0} for {1}. How much do I get back?", "Change from {0} for {1}?",
            "I have {0} and buy {1}. What is left?", "{0} given, {1} spent: how much change?",
            "What remains of {0} after {1}?", "How much of {0} is left after {1}?",
            "I spend {1} out of {0}. What remains?", "Change for {1} paid with {0}?", "From {0} take away {1}.",
            "You have {0}. You spend {1}. How much is left?", "Paid {0}, price {1}: change?",
            "With {0} I buy things for {1}. What do I get back?",
        ),
        (
            "付{0}，买了{1}，找回多少？", "我有{0}，花了{1}，还剩多少？", "{0}花掉{1}后还剩多少？",
            "用{0}买{1}的东西，找多少？", "从{0}里减去{1}，还剩多少？", "给了{0}，价格是{1}，应找多少？",
        ),
    ),
}  # fmt: skip
