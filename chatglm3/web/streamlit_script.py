"""What Streamlit runs for every click."""

from chatglm3.web import streamlit_app, streamlit_page

streamlit_page.draw(streamlit_app.site().users, streamlit_app.site().accounts)
