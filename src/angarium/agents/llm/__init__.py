"""LLM agents at work. Needs `angarium[llm]`; imported when the first of them is opened."""
