"""Wordings of the questions about data: tables, forms and charts. See `questions.py`."""

from __future__ import annotations

TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "table_markdown": (
        (
            "Write the table as Markdown.", "Convert the table to Markdown.", "Table to Markdown.",
            "Give the table in Markdown format.", "Markdown table, please.", "Transcribe the table as Markdown.",
            "Please rewrite this table in Markdown.", "Read the table and output Markdown.",
            "Copy the table as a Markdown table.", "Turn the table into Markdown.",
            "Output the table as Markdown only.", "Show the table in Markdown syntax.",
            "Reproduce the table in Markdown.",
        ),
        (
            "把表格写成Markdown。", "请用Markdown写出这个表格。", "表格转Markdown。", "用Markdown格式写出表格。",
            "请把表格转成Markdown。", "输出Markdown表格。",
        ),
    ),
    "table_cell": (
        (
            "What is the {1} of {0}?", "{0}, {1}?", "What is the value of {1} for {0}?", "Look up {1} for {0}.",
            "Find {0}: {1}?", "Which {1} does {0} have?", "Give the {1} of {0}.", "In the row {0}, what is {1}?",
            "Read the cell {0} / {1}.", "Please tell me the {1} for {0}.", "Row {0}, column {1}?",
            "What stands in row {0} under {1}?", "{1} of {0}, value only.",
        ),
        (
            "{0}的{1}是什么？", "{0}，{1}？", "{0}的{1}是多少？", "请查出{0}的{1}。", "{0}这一行的{1}是什么？",
            "写出{0}的{1}。",
        ),
    ),
    "table_row": (
        (
            "Read the row of {0}.", "What is in the row {0}?", "Give the row {0}, separated by commas.", "Row {0}?",
            "List all cells of the row {0}.", "Please read the row that starts with {0}.", "Copy the row of {0}.",
            "Which cells are in the row {0}?", "Write out the row {0}.", "Read all entries of {0}.",
            "What does the row for {0} contain?", "All cells of row {0}, with commas:",
        ),
        (
            "{0}这一行写了什么？", "请读出{0}这一行。", "{0}行？", "写出{0}这一行的内容。", "列出{0}行的所有数据。",
            "{0}那一行有什么？",
        ),
    ),
    "table_column": (
        (
            "Read the column {0}.", "What is in the column {0}?", "List the values of {0}.", "Column {0}?",
            "Give all entries of the column {0}, separated by commas.", "Which values are under {0}?",
            "Copy the column {0} from top to bottom.", "Please list what is under {0}.", "Write out the column {0}.",
            "All values of {0}, in order:", "Values under {0}?", "What does the column {0} contain?",
        ),
        (
            "{0}这一列写了什么？", "请读出{0}这一列。", "{0}列？", "写出{0}这一列的内容。", "列出{0}列的所有数据。",
            "{0}下面有哪些？",
        ),
    ),
    "table_largest": (
        (
            "Which {0} has the largest {1}?", "Which {0} has the highest {1}?", "Largest {1}: which {0}?",
            "Who or what has the most {1}?", "Find the {0} with the greatest {1}.", "Highest {1}?",
            "Name the {0} with the biggest {1}.", "Which row has the largest {1}?", "Where is {1} the highest?",
            "Top {0} by {1}?", "Please name the {0} whose {1} is largest.", "Maximum of {1}: which {0} is it?",
        ),
        (
            "哪个{0}的{1}最大？", "{1}最大的{0}是哪个？", "{1}最高的是哪个{0}？", "哪一行的{1}最大？",
            "请写出{1}最大的{0}。", "{1}最多的是哪个？",
        ),
    ),
    "table_smallest": (
        (
            "Which {0} has the smallest {1}?", "Which {0} has the lowest {1}?", "Smallest {1}: which {0}?",
            "Who or what has the least {1}?", "Find the {0} with the lowest {1}.", "Lowest {1}?",
            "Name the {0} with the smallest {1}.", "Which row has the smallest {1}?", "Where is {1} the lowest?",
            "Bottom {0} by {1}?", "Please name the {0} whose {1} is smallest.", "Minimum of {1}: which {0} is it?",
        ),
        (
            "哪个{0}的{1}最小？", "{1}最小的{0}是哪个？", "{1}最低的是哪个{0}？", "哪一行的{1}最小？",
            "请写出{1}最小的{0}。", "{1}最少的是哪个？",
        ),
    ),
    "table_find": (
        (
            "Which {0} has {1} {2}?", "Where is {1} equal to {2}?", "{1} is {2}: which {0}?",
            "Find the {0} whose {1} is {2}.", "For which {0} is {1} {2}?", "Which row has {2} under {1}?",
            "Name the {0} with {1} {2}.", "Whose {1} is {2}?", "Look for {2} in {1}: which {0} is it?",
            "Please find the {0} with {2} as {1}.", "{2} in the column {1} belongs to which {0}?",
            "Which {0} goes with {1} {2}?",
        ),
        (
            "哪个{0}的{1}是{2}？", "{1}是{2}的是哪个{0}？", "{1}为{2}的{0}？", "请找出{1}是{2}的{0}。",
            "哪一行的{1}是{2}？", "{2}是哪个{0}的{1}？",
        ),
    ),
    "table_num_rows": (
        (
            "How many rows does the table have, without the header?", "How many rows are below the header?",
            "Count the rows under the header.", "Number of data rows?", "How many entries does the table list?",
            "How many {0} entries are listed?", "Please count the data rows.", "Rows without the header?",
            "How many lines of data are in the table?", "How many records does the table hold?",
            "What is the number of data rows?", "Tell me how many rows of data there are.",
        ),
        (
            "表格有几行数据？", "除了表头有几行？", "数一数有几行数据。", "表中有几条记录？", "数据一共几行？",
            "不算表头有多少行？",
        ),
    ),
}  # fmt: skip

FORMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "form_json": (
        (
            "Write the form as JSON.", "Convert the form to JSON.", "Form to JSON.", "Give all fields as JSON.",
            "JSON of this form, please.", "Extract the fields as JSON on one line.", "Read the form and output JSON.",
            "Output every field and value as JSON.", "Turn the form into a JSON object.",
            "Return the form as JSON only.", "Please list the form's fields in JSON.", "Represent this form as JSON.",
        ),
        (
            "把表单写成JSON。", "请用JSON写出表单内容。", "表单转JSON。", "用JSON输出所有项。",
            "请提取各项，用JSON表示。", "输出JSON。",
        ),
    ),
    "form_field": (
        (
            "What is the {0}?", "{0}?", "What is written under {0}?", "Read the field {0}.", "Which {0} is entered?",
            "Give the value of {0}.", "Find {0} in the form.", "Please read {0}.", "Field {0}: what does it say?",
            "Look up {0}.", "Tell me the {0}.", "What did they enter for {0}?", "Value of {0} only.",
        ),
        (
            "{0}是什么？", "{0}？", "{0}写的是什么？", "请读出{0}。", "请写出{0}这一项。", "表中的{0}是什么？",
        ),
    ),
    "form_ticked": (
        (
            "Which box is ticked?", "What is ticked?", "Which option is checked?", "Ticked option?",
            "What was chosen?", "Name the checked box.", "Which choice is marked?", "Read the ticked option.",
            "Which options are selected?", "Please name what is ticked.", "Selected option(s)?",
            "What has a mark in its box?",
        ),
        (
            "选了哪一项？", "哪个方块被选中？", "选中的是什么？", "哪项打了记号？", "请写出选中的项。",
            "选择了什么？",
        ),
    ),
    "form_is_ticked": (
        (
            "Is {0} ticked?", "Is the box {0} checked?", "{0}: ticked or not? Yes or no.", "Was {0} chosen?",
            "Did they tick {0}?", "Is {0} selected?", "Is there a mark at {0}?", "{0} ticked?",
            "Has {0} been checked?", "Please say if {0} is ticked.", "Is {0} marked, yes or no?",
            "Does {0} have a tick?",
        ),
        (
            "选了{0}吗？", "{0}被选中了吗？", "{0}打了记号吗？", "{0}是否选中？", "有没有选{0}？",
            "{0}选了没有？是或否？",
        ),
    ),
    "form_title": (
        (
            "What form is this?", "What is the title of the form?", "Title?", "Read the title of the form.",
            "Which form is it?", "Give the form's title.", "What is this form called?", "Please read the form title.",
            "Heading of the form?", "What does the top of the form say?", "Name of the form?",
            "Tell me what the form is titled.",
        ),
        (
            "这是什么表？", "表单的标题是什么？", "标题？", "请读出表单标题。", "这张表叫什么？", "写出表的名称。",
        ),
    ),
    "form_empty": (
        (
            "Which field is empty?", "What was left blank?", "Which field is not filled in?", "Empty field?",
            "Name the field without a value.", "Which entry is missing?", "What is not filled in?",
            "Find the blank field.", "Which line was left empty?", "Please name the empty field.",
            "Which value is missing?", "What did they leave out?",
        ),
        (
            "哪一项没有写？", "哪一项是空的？", "空着的是哪项？", "请写出空的那一项。", "没写的是什么？",
            "哪一项缺少内容？",
        ),
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
        (
            "{0}的值是多少？", "{0}是多少？", "图中{0}的数值是多少？", "请读出{0}的值。", "{0}？", "写出{0}的数值。",
        ),
    ),
    "chart_largest": (
        (
            "Which category is the largest?", "What is the highest?", "Which one is the largest?",
            "Largest category?", "Which has the highest value?", "Name the biggest category.",
            "What has the greatest value?", "Where is the maximum?", "Which label has the largest value?",
            "Find the highest value: which is it?", "Please name the largest one.", "Top category in the chart?",
            "Which is at its maximum?",
        ),
        (
            "哪一项最大？", "最大的是哪个？", "数值最高的是什么？", "最高的是哪一项？", "请写出最大的一项。",
            "哪个的值最大？",
        ),
    ),
    "chart_smallest": (
        (
            "Which category is the smallest?", "What is the lowest?", "Which one is the smallest?",
            "Smallest category?", "Which has the lowest value?", "Name the smallest category.",
            "What has the least value?", "Where is the minimum?", "Which label has the smallest value?",
            "Find the lowest value: which is it?", "Please name the smallest one.", "Bottom category in the chart?",
            "Which is at its minimum?",
        ),
        (
            "哪一项最小？", "最小的是哪个？", "数值最低的是什么？", "最低的是哪一项？", "请写出最小的一项。",
            "哪个的值最小？",
        ),
    ),
    "chart_category": (
        (
            "Which category has the value {0}?", "What has the value {0}?", "Which one is {0}?",
            "{0}: which category?", "Which label goes with {0}?", "Find the category with value {0}.",
            "Where is the value {0}?", "Name the one with {0}.", "Which entry equals {0}?",
            "Please say which category is {0}.", "{0} belongs to which label?", "What is shown with the value {0}?",
        ),
        (
            "哪一项的值是{0}？", "值为{0}的是哪个？", "{0}是哪一项？", "请找出值是{0}的一项。", "数值{0}对应什么？",
            "哪个等于{0}？",
        ),
    ),
    "chart_count": (
        (
            "How many categories are there?", "How many values are shown?", "Count the categories.",
            "Number of categories?", "How many data points does the chart have?", "How many labels are there?",
            "How many entries are in the chart?", "Please count the categories.", "What is the number of categories?",
            "How many different items does the chart show?", "Tell me how many values you see.",
            "Categories in total?",
        ),
        (
            "图中有几项？", "一共有几个数据？", "数一数有几项。", "有多少个数值？", "图里有几个项目？", "总共几项？",
        ),
    ),
    "chart_title": (
        (
            "What is the title of the chart?", "Chart title?", "Read the title.", "What does the chart show?",
            "What is the chart about?", "Title?", "Give the chart's title.", "Which title is above the chart?",
            "Please read the chart title.", "What is this chart called?", "Name of the chart?",
            "Copy the title of the chart.",
        ),
        (
            "图表的标题是什么？", "标题？", "请读出标题。", "这张图的标题是什么？", "图表说的是什么？",
            "写出图的标题。",
        ),
    ),
    "chart_colour": (
        (
            "What colour is {0}?", "Which colour stands for {0}?", "Colour of {0}?", "What color is used for {0}?",
            "In which colour is {0} drawn?", "{0} has which color?", "Name the colour of {0}.",
            "Find {0}: what colour?", "Which color belongs to {0}?", "Please give the colour of {0}.",
            "How is {0} coloured?", "Tell me the color of {0}.",
        ),
        (
            "{0}是什么颜色？", "{0}用什么颜色表示？", "{0}的颜色？", "请写出{0}的颜色。", "哪种颜色表示{0}？",
            "图中{0}的颜色是什么？",
        ),
    ),
    "chart_table": (
        (
            "List all values.", 'Write the data as "name: value" lines.', "Give every category with its value.",
            "What are the values in the chart?", "Read all data from the chart.", "List the data.",
            "Turn the chart into a list.", "Please list each label and its value.", "Data of the chart?",
            "Extract all values, one a line.", "Name every category and its value.", "Write down the chart's data.",
        ),
        (
            "列出所有数值。", "请写出图中的全部数据。", "每一项的值是多少？", "把图中数据列出来。",
            "写出各项和数值。", "图表的数据是什么？",
        ),
    ),
    "chart_more": (
        (
            "Is {0} larger than {1}?", "Is {0} greater than {1}?", "Does {0} have a higher value than {1}?",
            "Is {0} more than {1}? Yes or no.", "{0} > {1}?", "Is {0} above {1} in value?",
            "Is the value of {0} higher than that of {1}?", "Does {0} exceed {1}?", "Is {0} bigger than {1}?",
            "Please say if {0} is larger than {1}.", "Is there more {0} than {1}?",
            "Compare: is {0} higher than {1}?",
        ),
        (
            "{0}比{1}大吗？", "{0}大于{1}吗？", "{0}的值比{1}高吗？", "{0}是否大于{1}？", "{0}比{1}多吗？",
            "{0}的数值高于{1}吗？",
        ),
    ),
}  # fmt: skip
