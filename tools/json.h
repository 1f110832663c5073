// Writes JSON: objects, arrays, text, numbers; commas and escapes are its affair.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

namespace kvops {

class Json {
 public:
  Json& open(char bracket) {
    comma();
    text_ += bracket;
    fresh_ = true;
    return *this;
  }
  Json& close(char bracket) {
    text_ += bracket;
    fresh_ = false;
    return *this;
  }
  Json& key(const char* name) {
    value(std::string(name));
    text_ += ": ";
    fresh_ = true;
    return *this;
  }
  Json& value(const std::string& text) {
    comma();
    text_ += '"';
    for (char c : text) {
      if (c == '"' || c == '\\') text_ += '\\';
      text_ += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
    text_ += '"';
    return *this;
  }
  Json& value(const char* text) { return value(std::string(text)); }
  Json& value(bool truth) { return word(truth ? "true" : "false"); }
  Json& value(int64_t number) { return word(std::to_string(number)); }
  Json& value(int number) { return word(std::to_string(number)); }
  Json& value(double number) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.6g", number);
    return word(std::isfinite(number) ? digits : "null");
  }
  template <class T>
  Json& field(const char* name, const T& content) {
    return key(name).value(content);
  }

  void print() const { std::printf("%s\n", text_.c_str()); }

 private:
  Json& word(const std::string& text) {
    comma();
    text_ += text;
    return *this;
  }
  void comma() {
    if (!fresh_) text_ += ", ";
    fresh_ = false;
  }

  std::string text_;
  bool fresh_ = true;
};

}  // namespace kvops
