"""Wordings of the questions about documents: pages, receipts, product labels, tables, forms and charts.

As in `prompts.py`: for each task English, then Chinese wordings, with slots {0}, {1} that the layout fills. Training and
evaluation ask from the same table; layouts stay apart. Where a task has an ordinal, {0} is the word ("second"; in
Chinese the digit) and {1} the digit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .prompts import READ

if TYPE_CHECKING:
    import numpy as np

ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()

PAGES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "page_read": READ,
    "page_heading": (
        (
            "What is the heading?", "Read the heading.", "What is the title of this page?", "Title?",
            "Give the heading only.", "Which title does the page have?", "Please read the title.",
            "What does the headline say?", "Write down the heading.", "What is this page called?",
            "Name the title of the document.", "Copy the headline.", "Heading, exactly as printed?",
        ),
        ("标题是什么？", "请读出标题。", "这一页的题目是什么？", "写出标题。", "标题写了什么？", "只读标题。", "文章的标题是？"),
    ),
    "page_line": (
        (
            "What does the {0} line say?", "Read line {1}.", "Read the {0} line.", "Line {1}?",
            "Please transcribe line {1}.", "What is written in line {1}?", "Give me the {0} line of text.",
            "Copy line {1} exactly.", "Text of line {1}:", "Which words are in the {0} line?",
            "Write down the {0} line only.", "Could you read the {0} line?", "Line number {1}, please.",
        ),
        ("第{1}行写了什么？", "请读出第{1}行。", "读第{1}行。", "第{1}行的文字是什么？", "写出第{1}行的内容。", "只要第{1}行。"),
    ),
    "page_last_line": (
        (
            "What does the last line say?", "Read the last line.", "Last line?", "Give me the final line.",
            "What is written at the very end?", "Please read the bottom line.", "Copy the last line.",
            "Which text is in the last line?", "Transcribe the final line.", "How does the text end? Last line only.",
            "Write down the last line.", "Could you read the last line for me?",
        ),
        ("最后一行写了什么？", "请读出最后一行。", "读最后一行。", "最后一行的文字是什么？", "写出最后一行。", "最下面一行是什么？"),
    ),
    "page_paragraph": (
        (
            "What does the {0} paragraph say?", "Read paragraph {1}.", "Read the {0} paragraph.", "Paragraph {1}?",
            "Please transcribe the {0} paragraph.", "Give me the text of paragraph {1}.",
            "Copy the {0} paragraph, line by line.", "What is written in paragraph {1}?",
            "Write down the {0} paragraph.", "Transcribe only paragraph {1}.", "Text of the {0} paragraph, please.",
            "Could you read the {0} paragraph?",
        ),
        ("第{1}段写了什么？", "请读出第{1}段。", "读第{1}段。", "第{1}段的内容是什么？", "写出第{1}段的文字。", "只读第{1}段。"),
    ),
    "page_value": (
        (
            "What is the {0}?", "{0}?", "Which {0} is given?", "Find the {0}.", "Please give the {0}.",
            "What does it say after {0}?", "What stands next to {0}?", "Read the value of {0}.",
            "Look up: {0}.", "What is written for {0}?", "Tell me the {0}.", "{0} = ?",
            "Give only the {0}.",
        ),
        ("{0}是什么？", "{0}？", "请找出{0}。", "{0}写的是什么？", "{0}后面写了什么？", "请写出{0}。", "查一下{0}。"),
    ),
    "page_item": (
        (
            "What is the {0} item of the list?", "Read item {1}.", "Item {1}?", "Which entry comes {0}?",
            "What does point {1} say?", "Give me the {0} entry.", "Read the {0} point of the list.",
            "What is number {1} on the list?", "Copy list item {1}.", "Please read entry {1}.",
            "Write down the {0} list item.", "Name the {0} thing on the list.",
        ),
        ("列表的第{1}项是什么？", "第{1}项？", "请读出第{1}项。", "第{1}条写了什么？", "写出第{1}条。", "清单上第{1}个是什么？"),
    ),
    "page_section": (
        (
            "What is written under \"{0}\"?", "Read the text below {0}.", "What does the section {0} say?",
            "Give me the section {0}.", "Transcribe the part under {0}.", "Section {0}?",
            "Please read what stands under {0}.", "Copy the text of {0}.", "Text under the heading {0}:",
            "Which text follows the heading {0}?", "Read only the section {0}.", "What does the part called {0} say?",
        ),
        ("《{0}》下面写了什么？", "请读出{0}这一部分。", "{0}这一节的内容是什么？", "写出{0}下面的文字。", "读{0}这一段。", "只要{0}部分的文字。"),
    ),
    "page_framed": (
        (
            "Read the framed text.", "What is in the frame?", "What does the box say?", "Read the text in the box.",
            "Which text is framed?", "Framed text?", "Copy what is inside the frame.",
            "Please read the marked region.", "Transcribe the boxed part.", "What is written inside the rectangle?",
            "Give only the text within the frame.", "Read the outlined words.", "Text in the marked box:",
        ),
        ("请读出方框里的文字。", "框里写了什么？", "方框中的文字是什么？", "读框内的文字。", "写出框出的文字。", "框起来的是什么字？"),
    ),
    "page_count_lines": (
        (
            "How many lines of text are there?", "Count the lines.", "How many lines do you see?",
            "Number of lines?", "How many lines does the text have?", "Please count the text lines.",
            "What is the number of lines?", "How many rows of text are on the page?", "Give the line count.",
            "Tell me how many lines there are.", "Lines in total?", "How many printed lines can you count?",
        ),
        ("一共有几行字？", "图中有多少行文字？", "数一数有几行。", "文字有几行？", "总行数是多少？", "请数出行数。"),
    ),
}  # fmt: skip

RECEIPTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "receipt_total": (
        (
            "What is the total?", "Total?", "What is the total amount?", "How much is the total?",
            "How much was it in all?", "Read the total of the receipt.", "What sum had to be paid?",
            "Give the grand total.", "Please find the total.", "Amount due?", "What is the final amount?",
            "Tell me the total, with the currency as printed.", "How much did everything cost?", "Total only:",
        ),
        ("总额是多少？", "合计多少？", "一共多少钱？", "总计？", "请写出总金额。", "这张收据的总额是多少？", "一共要给多少钱？"),
    ),
    "receipt_subtotal": (
        (
            "What is the subtotal?", "Subtotal?", "How much before tax?", "Give the subtotal.",
            "What is the sum before tax?", "Read the subtotal.", "Please find the subtotal.",
            "What amount is given without tax?", "Net amount?", "Subtotal only, please.",
            "How much are the goods before tax?", "Tell me the subtotal.",
        ),
        ("小计是多少？", "小计？", "请写出小计。", "不含税是多少？", "税前金额是多少？", "读出小计。"),
    ),
    "receipt_tax": (
        (
            "How much is the tax?", "Tax?", "What is the tax amount?", "Give the tax.", "How much tax was paid?",
            "Read the tax line.", "What does the tax come to?", "Please find the tax.", "Amount of tax?",
            "How much VAT is there?", "Tell me the tax.", "Tax only:",
        ),
        ("税是多少？", "税额？", "税额是多少？", "请写出税额。", "交了多少税？", "读出税额。"),
    ),
    "receipt_price": (
        (
            "How much is the {0}?", "What does the {0} cost?", "Price of {0}?", "What is the price of {0}?",
            "{0}: price?", "Find the price of {0}.", "Please give the price of {0}.", "How much was {0}?",
            "What did they pay for {0}?", "Read the price next to {0}.", "Cost of {0}?", "Tell me what {0} costs.",
        ),
        ("{0}多少钱？", "{0}的价格是多少？", "{0}？价格？", "请写出{0}的价格。", "买{0}用了多少钱？", "{0}的金额是多少？"),
    ),
    "receipt_paid": (
        (
            "How much cash was given?", "Cash?", "What amount was paid?", "How much did the customer hand over?",
            "Read the cash line.", "Cash given?", "How much money was tendered?", "Please give the cash amount.",
            "What was paid in cash?", "Amount of cash?", "Tell me the cash amount.", "Give the amount tendered.",
        ),
        ("收了多少现金？", "现金？", "现金是多少？", "给了多少现金？", "请写出现金金额。", "读出现金这一行。"),
    ),
    "receipt_change": (
        (
            "How much change was returned?", "Change?", "What is the change?", "How much did they get back?",
            "Read the change.", "Please give the change.", "Change given back?", "How much money came back?",
            "What change is printed?", "Tell me the change.", "Amount of change?", "Give only the change.",
        ),
        ("找零是多少？", "找零？", "找回多少钱？", "请写出找零。", "找了多少钱？", "读出找零金额。"),
    ),
    "receipt_date": (
        (
            "What is the date?", "Date?", "When was this bought?", "Which date is printed?", "Give the date.",
            "Read the date of the receipt.", "On which day was the purchase?", "Please find the date.",
            "Date of purchase?", "What day is on the receipt?", "Tell me the date as printed.", "When was the purchase made?",
        ),
        ("日期是什么？", "日期？", "哪一天买的？", "请写出日期。", "收据上的日期是什么？", "是什么时候买的？"),
    ),
    "receipt_shop": (
        (
            "Which shop is it?", "What is the name of the shop?", "Shop?", "Where was this bought?",
            "Who issued the receipt?", "Give the store name.", "What store is this from?", "Read the shop name.",
            "Name of the store?", "Please give the name of the shop.", "Which store printed it?", "Which business is on the receipt?",
        ),
        ("是哪家店？", "店名是什么？", "店名？", "请写出店名。", "在哪里买的？", "商店叫什么？"),
    ),
    "receipt_count": (
        (
            "How many items were bought?", "How many items are listed?", "Count the items.", "Number of items?",
            "How many different items are there?", "How many products are on the receipt?",
            "How many things did they buy?", "Please count the listed items.", "Items in total?",
            "How many lines of goods are there?", "What is the number of items?", "Tell me how many items are listed.",
        ),
        ("买了几样东西？", "有几种商品？", "数一数有几项商品。", "商品有几种？", "一共列了几样？", "收据上有几项？"),
    ),
    "receipt_dearest": (
        (
            "Which item is the most expensive?", "What cost the most?", "Most expensive item?",
            "Name the dearest item.", "Which item has the highest price?", "What is the most expensive thing?",
            "Which product costs most?", "Find the item with the highest price.", "Highest price: which item?",
            "Tell me the most expensive item.", "What was the most costly item?", "Please name the priciest item.",
        ),
        ("最贵的是什么？", "哪样最贵？", "最贵的商品？", "价格最高的是哪一项？", "请写出最贵的商品。", "哪种商品的价格最高？"),
    ),
    "receipt_read": (
        (
            "Read the receipt.", "Transcribe the whole receipt.", "Write out everything on the receipt, line by line.",
            "What is printed on this receipt?", "Copy the receipt.", "Give the full text of the receipt.",
            "OCR the receipt.", "Please read all lines of the receipt.", "All text, line by line.",
            "Type out the receipt.", "What does the receipt say?", "Read everything, one line at a time.",
        ),
        ("请读出整张收据。", "收据上写了什么？", "读收据。", "请逐行写出收据的内容。", "写出全部文字。", "识别整张收据。"),
    ),
}  # fmt: skip

LABELS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "production_date": (
        (
            "production date", "What is the production date?", "Production date?", "When was it produced?",
            "When was this made?", "Find the production date.", "Date of manufacture?",
            "Please give the production date.", "What is the manufacturing date?", "On which day was it made?",
            "Read the date of production.", "Extract the production date.", "MFG date?", "Give only the production date.",
            "Tell me when it was manufactured.",
        ),
        ("生产日期", "生产日期是什么？", "生产日期？", "什么时候生产的？", "请写出生产日期。", "找出生产日期。", "哪一天生产的？", "请只写生产日期。"),
    ),
    "expiry_date": (
        (
            "What is the expiry date?", "Expiry date?", "When does it expire?", "Until when is it good?",
            "Best before when?", "Find the expiration date.", "Please give the best-before date.", "Use by?",
            "How long can it be used? Give the date.", "Read the expiry date.", "Extract the expiry date.",
            "Tell me the date it expires.",
        ),
        ("有效期到哪一天？", "有效期？", "什么时候过期？", "请写出有效期。", "到期日是哪天？", "找出有效期。"),
    ),
    "lot_number": (
        (
            "What is the lot number?", "Lot?", "Lot number?", "Which batch is it?", "Read the lot number.",
            "Find the batch code.", "Please give the lot number.", "What is the batch number?", "Batch?",
            "Extract the lot.", "Which lot is printed?", "Tell me the lot code.",
        ),
        ("批号是什么？", "批号？", "请写出批号。", "找出批号。", "是哪一批？", "读出批号。"),
    ),
    "product_name": (
        (
            "What product is it?", "Product?", "What is the product called?", "Name of the product?",
            "Which product is this label for?", "Read the product name.", "Please name the product.",
            "What is in the package?", "What does this label belong to?", "Give the product name.",
            "Tell me the name of the product.", "Which article is it?",
        ),
        ("这是什么产品？", "产品？", "产品名称是什么？", "请写出产品名。", "产品叫什么？", "读出产品名称。"),
    ),
    "net_weight": (
        (
            "What is the net weight?", "Net weight?", "How much does it contain?", "How much is in it?",
            "Read the net content.", "What quantity is in the pack?", "Please give the net weight.", "Contents?",
            "Give the amount in the package.", "How heavy is it?", "What size is the pack?", "Tell me the net content.",
        ),
        ("含量是多少？", "含量？", "有多重？", "请写出含量。", "里面有多少？", "读出含量。"),
    ),
    "label_read": (
        (
            "Read the label.", "What is printed on the label?", "Transcribe the label.", "All text on the label?",
            "Copy the label line by line.", "What does the label say?", "Please read the whole label.",
            "Write out the label.", "Give the full text of the label.", "OCR this label.",
            "Type out everything on the label.", "Read all lines of the label.",
        ),
        ("请读出标签。", "标签上写了什么？", "读标签。", "写出标签上的全部文字。", "识别标签。", "请逐行读出标签内容。"),
    ),
}  # fmt: skip

TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "table_markdown": (
        (
            "Write the table as Markdown.", "Convert the table to Markdown.", "Table to Markdown.",
            "Give the table in Markdown format.", "Markdown table, please.", "Transcribe the table as Markdown.",
            "Please rewrite this table in Markdown.", "Read the table and output Markdown.",
            "Copy the table as a Markdown table.", "Turn the table into Markdown.", "Output the table as Markdown only.",
            "Show the table in Markdown syntax.", "Reproduce the table in Markdown.",
        ),
        ("把表格写成Markdown。", "请用Markdown写出这个表格。", "表格转Markdown。", "用Markdown格式写出表格。", "请把表格转成Markdown。", "输出Markdown表格。"),
    ),
    "table_cell": (
        (
            "What is the {1} of {0}?", "{0}, {1}?", "What is the value of {1} for {0}?", "Look up {1} for {0}.",
            "Find {0}: {1}?", "Which {1} does {0} have?", "Give the {1} of {0}.", "In the row {0}, what is {1}?",
            "Read the cell {0} / {1}.", "Please tell me the {1} for {0}.", "Row {0}, column {1}?",
            "What stands in row {0} under {1}?", "{1} of {0}, value only.",
        ),
        ("{0}的{1}是什么？", "{0}，{1}？", "{0}的{1}是多少？", "请查出{0}的{1}。", "{0}这一行的{1}是什么？", "写出{0}的{1}。"),
    ),
    "table_row": (
        (
            "Read the row of {0}.", "What is in the row {0}?", "Give the row {0}, separated by commas.", "Row {0}?",
            "List all cells of the row {0}.", "Please read the row that starts with {0}.", "Copy the row of {0}.",
            "Which values are in the row {0}?", "Write out the row {0}.", "Read all entries of {0}.",
            "What does the row for {0} contain?", "Values in the row {0}, with commas:",
        ),
        ("{0}这一行写了什么？", "请读出{0}这一行。", "{0}行？", "写出{0}这一行的内容。", "列出{0}行的所有数据。", "{0}那一行有什么？"),
    ),
    "table_column": (
        (
            "Read the column {0}.", "What is in the column {0}?", "List the values of {0}.", "Column {0}?",
            "Give all entries of the column {0}, separated by commas.", "Which values are under {0}?",
            "Copy the column {0} from top to bottom.", "Please list what is under {0}.",
            "Write out the column {0}.", "All values of {0}, in order:", "Values under {0}?",
            "What does the column {0} contain?",
        ),
        ("{0}这一列写了什么？", "请读出{0}这一列。", "{0}列？", "写出{0}这一列的内容。", "列出{0}列的所有数据。", "{0}下面有哪些？"),
    ),
    "table_largest": (
        (
            "Which {0} has the largest {1}?", "Which {0} has the highest {1}?", "Largest {1}: which {0}?",
            "Who or what has the most {1}?", "Find the {0} with the greatest {1}.", "Highest {1}?",
            "Name the {0} with the biggest {1}.", "Which row has the largest {1}?", "Where is {1} the highest?",
            "Top {0} by {1}?", "Please name the {0} whose {1} is largest.", "Maximum of {1}: which {0} is it?",
        ),
        ("哪个{0}的{1}最大？", "{1}最大的{0}是哪个？", "{1}最高的是哪个{0}？", "哪一行的{1}最大？", "请写出{1}最大的{0}。", "{1}最多的是哪个？"),
    ),
    "table_smallest": (
        (
            "Which {0} has the smallest {1}?", "Which {0} has the lowest {1}?", "Smallest {1}: which {0}?",
            "Who or what has the least {1}?", "Find the {0} with the lowest {1}.", "Lowest {1}?",
            "Name the {0} with the smallest {1}.", "Which row has the smallest {1}?", "Where is {1} the lowest?",
            "Bottom {0} by {1}?", "Please name the {0} whose {1} is smallest.", "Minimum of {1}: which {0} is it?",
        ),
        ("哪个{0}的{1}最小？", "{1}最小的{0}是哪个？", "{1}最低的是哪个{0}？", "哪一行的{1}最小？", "请写出{1}最小的{0}。", "{1}最少的是哪个？"),
    ),
    "table_find": (
        (
            "Which {0} has {1} {2}?", "Where is {1} equal to {2}?", "{1} is {2}: which {0}?",
            "Find the {0} whose {1} is {2}.", "For which {0} is {1} {2}?", "Which row has {2} under {1}?",
            "Name the {0} with {1} {2}.", "Whose {1} is {2}?", "Look for {2} in {1}: which {0} is it?",
            "Please find the {0} with {2} as {1}.", "{2} in the column {1} belongs to which {0}?",
            "Which {0} goes with {1} {2}?",
        ),
        ("哪个{0}的{1}是{2}？", "{1}是{2}的是哪个{0}？", "{1}为{2}的{0}？", "请找出{1}是{2}的{0}。", "哪一行的{1}是{2}？", "{2}是哪个{0}的{1}？"),
    ),
    "table_num_rows": (
        (
            "How many rows does the table have, without the header?", "How many rows are below the header?",
            "Count the rows under the header.", "Number of data rows?", "How many entries does the table list?",
            "How many {0} entries are listed?", "Please count the data rows.", "Rows without the header?",
            "How many lines of data are in the table?", "How many records does the table hold?",
            "What is the number of data rows?", "Tell me how many rows of data there are.",
        ),
        ("表格有几行数据？", "除了表头有几行？", "数一数有几行数据。", "表中有几条记录？", "数据一共几行？", "不算表头有多少行？"),
    ),
}  # fmt: skip

FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "form_json": (
        (
            "Write the form as JSON.", "Convert the form to JSON.", "Form to JSON.", "Give all fields as JSON.",
            "JSON of this form, please.", "Extract the fields as JSON on one line.", "Read the form and output JSON.",
            "Output every field and value as JSON.", "Turn the form into a JSON object.", "Return the form as JSON only.",
            "Please list the form's fields in JSON.", "Represent this form as JSON.",
        ),
        ("把表单写成JSON。", "请用JSON写出表单内容。", "表单转JSON。", "用JSON输出所有项。", "请提取各项，用JSON表示。", "输出JSON。"),
    ),
    "form_field": (
        (
            "What is the {0}?", "{0}?", "What is written under {0}?", "Read the field {0}.", "Which {0} is entered?",
            "Give the value of {0}.", "Find {0} in the form.", "Please read {0}.", "Field {0}: what does it say?",
            "Look up {0}.", "Tell me the {0}.", "What did they enter for {0}?", "Value of {0} only.",
        ),
        ("{0}是什么？", "{0}？", "{0}写的是什么？", "请读出{0}。", "请写出{0}这一项。", "表中的{0}是什么？"),
    ),
    "form_ticked": (
        (
            "Which box is ticked?", "What is ticked?", "Which option is checked?", "Ticked option?",
            "What was chosen?", "Name the checked box.", "Which choice is marked?", "Read the ticked option.",
            "Which options are selected?", "Please name what is ticked.", "Selected option(s)?", "What has a mark in its box?",
        ),
        ("选了哪一项？", "哪个方块被选中？", "选中的是什么？", "哪项打了记号？", "请写出选中的项。", "选择了什么？"),
    ),
    "form_is_ticked": (
        (
            "Is {0} ticked?", "Is the box {0} checked?", "{0}: ticked or not? Yes or no.", "Was {0} chosen?",
            "Did they tick {0}?", "Is {0} selected?", "Is there a mark at {0}?", "{0} ticked?",
            "Has {0} been checked?", "Please say if {0} is ticked.", "Is {0} marked, yes or no?", "Does {0} have a tick?",
        ),
        ("选了{0}吗？", "{0}被选中了吗？", "{0}打了记号吗？", "{0}是否选中？", "有没有选{0}？", "{0}选了没有？是或否？"),
    ),
    "form_title": (
        (
            "What form is this?", "What is the title of the form?", "Title?", "Read the title of the form.",
            "Which form is it?", "Give the form's title.", "What is this form called?", "Please read the form title.",
            "Heading of the form?", "What does the top of the form say?", "Name of the form?", "Tell me what the form is titled.",
        ),
        ("这是什么表？", "表单的标题是什么？", "标题？", "请读出表单标题。", "这张表叫什么？", "写出表的名称。"),
    ),
    "form_empty": (
        (
            "Which field is empty?", "What was left blank?", "Which field is not filled in?", "Empty field?",
            "Name the field without a value.", "Which entry is missing?", "What is not filled in?",
            "Find the blank field.", "Which line was left empty?", "Please name the empty field.",
            "Which value is missing?", "What did they leave out?",
        ),
        ("哪一项没有写？", "哪一项是空的？", "空着的是哪项？", "请写出空的那一项。", "没写的是什么？", "哪一项缺少内容？"),
    ),
}  # fmt: skip

CHARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "chart_value": (
        (
            "What is the value of {0}?", "{0}?", "What value does {0} have?", "How much is {0}?",
            "Read the value for {0}.", "Find the value of {0} in the chart.", "Value of {0}?", "How high is {0}?",
            "Please give the number for {0}.", "What number belongs to {0}?", "Give {0} as a number.",
            "According to the chart, what is {0}?", "Which value is shown for {0}?",
        ),
        ("{0}的值是多少？", "{0}是多少？", "图中{0}的数值是多少？", "请读出{0}的值。", "{0}？", "写出{0}的数值。"),
    ),
    "chart_largest": (
        (
            "Which category is the largest?", "What is the highest?", "Which one is the largest?", "Largest category?",
            "Which has the highest value?", "Name the biggest category.", "What has the greatest value?",
            "Where is the maximum?", "Which label has the largest value?", "Find the highest value: which is it?",
            "Please name the largest one.", "Top category in the chart?", "Which is at its maximum?",
        ),
        ("哪一项最大？", "最大的是哪个？", "数值最高的是什么？", "最高的是哪一项？", "请写出最大的一项。", "哪个的值最大？"),
    ),
    "chart_smallest": (
        (
            "Which category is the smallest?", "What is the lowest?", "Which one is the smallest?", "Smallest category?",
            "Which has the lowest value?", "Name the smallest category.", "What has the least value?",
            "Where is the minimum?", "Which label has the smallest value?", "Find the lowest value: which is it?",
            "Please name the smallest one.", "Bottom category in the chart?", "Which is at its minimum?",
        ),
        ("哪一项最小？", "最小的是哪个？", "数值最低的是什么？", "最低的是哪一项？", "请写出最小的一项。", "哪个的值最小？"),
    ),
    "chart_category": (
        (
            "Which category has the value {0}?", "What has the value {0}?", "Which one is {0}?", "{0}: which category?",
            "Which label goes with {0}?", "Find the category with value {0}.", "Where is the value {0}?",
            "Name the one with {0}.", "Which entry equals {0}?", "Please say which category is {0}.",
            "{0} belongs to which label?", "What is shown with the value {0}?",
        ),
        ("哪一项的值是{0}？", "值为{0}的是哪个？", "{0}是哪一项？", "请找出值是{0}的一项。", "数值{0}对应什么？", "哪个等于{0}？"),
    ),
    "chart_count": (
        (
            "How many categories are there?", "How many values are shown?", "Count the categories.",
            "Number of categories?", "How many data points does the chart have?", "How many labels are there?",
            "How many entries are in the chart?", "Please count the categories.", "What is the number of categories?",
            "How many different items does the chart show?", "Tell me how many values you see.", "Categories in total?",
        ),
        ("图中有几项？", "一共有几个数据？", "数一数有几项。", "有多少个数值？", "图里有几个项目？", "总共几项？"),
    ),
    "chart_title": (
        (
            "What is the title of the chart?", "Chart title?", "Read the title.", "What does the chart show?",
            "What is the chart about?", "Title?", "Give the chart's title.", "Which title is above the chart?",
            "Please read the chart title.", "What is this chart called?", "Name of the chart?", "Copy the title of the chart.",
        ),
        ("图表的标题是什么？", "标题？", "请读出标题。", "这张图的标题是什么？", "图表说的是什么？", "写出图的标题。"),
    ),
    "chart_colour": (
        (
            "What colour is {0}?", "Which colour stands for {0}?", "Colour of {0}?", "What color is used for {0}?",
            "In which colour is {0} drawn?", "{0} has which color?", "Name the colour of {0}.",
            "Find {0}: what colour?", "Which color belongs to {0}?", "Please give the colour of {0}.",
            "How is {0} coloured?", "Tell me the color of {0}.",
        ),
        ("{0}是什么颜色？", "{0}用什么颜色表示？", "{0}的颜色？", "请写出{0}的颜色。", "哪种颜色表示{0}？", "图中{0}的颜色是什么？"),
    ),
    "chart_table": (
        (
            "List all values.", "Write the data as \"name: value\" lines.", "Give every category with its value.",
            "What are the values in the chart?", "Read all data from the chart.", "List the data.",
            "Turn the chart into a list.", "Please list each label and its value.", "Data of the chart?",
            "Extract all values, one a line.", "Name every category and its value.", "Write down the chart's data.",
        ),
        ("列出所有数值。", "请写出图中的全部数据。", "每一项的值是多少？", "把图中数据列出来。", "写出各项和数值。", "图表的数据是什么？"),
    ),
    "chart_more": (
        (
            "Is {0} larger than {1}?", "Is {0} greater than {1}?", "Does {0} have a higher value than {1}?",
            "Is {0} more than {1}? Yes or no.", "{0} > {1}?", "Is {0} above {1} in value?",
            "Is the value of {0} higher than that of {1}?", "Does {0} exceed {1}?", "Is {0} bigger than {1}?",
            "Please say if {0} is larger than {1}.", "Is there more {0} than {1}?", "Compare: is {0} higher than {1}?",
        ),
        ("{0}比{1}大吗？", "{0}大于{1}吗？", "{0}的值比{1}高吗？", "{0}是否大于{1}？", "{0}比{1}多吗？", "{0}的数值高于{1}吗？"),
    ),
}  # fmt: skip

QUESTIONS = PAGES | RECEIPTS | LABELS | TABLES | FORMS | CHARTS

# Endings that may follow a question: they ask for what the answers already are.
_ENDINGS = (
    (
        " Answer briefly.",
        " Only the answer.",
        " Give just the value.",
        " Short answer, please.",
        " Answer in a few words.",
    ),
    ("只写答案。", "请简短回答。", "直接回答。"),
)
_LONG = ("page_read", "page_paragraph", "page_section", "receipt_read", "label_read", "table_markdown", "form_json",
         "chart_table", "production_date")  # fmt: skip


def ask(rng: np.random.Generator, task: str, language: int, *values: str) -> str:
    """A random wording of a task's question. language: 0 English, 1 Chinese; values fill its slots."""
    wordings = QUESTIONS[task][language]
    question = wordings[int(rng.integers(len(wordings)))].format(*values)
    if task not in _LONG and question[-1] in ".?。？" and rng.random() < 0.08:
        endings = _ENDINGS[language]
        question += endings[int(rng.integers(len(endings)))]
    return question


def ordinal(number: int) -> tuple[str, str]:
    """The two slot values of an ordinal, from 1."""
    return ORDINALS[number - 1], str(number)
