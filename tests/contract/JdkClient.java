import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.List;
import java.util.stream.Collectors;

/** Asks an OpenAI API as Spring, Ktor and JetBrains' tools do: by the JDK's client, which offers h2c by default. */
public class JdkClient {
    private static final HttpClient CLIENT = HttpClient.newHttpClient();

    /** Usage: URL. Prints a line for each answer: its name, protocol, status and text. */
    public static void main(String[] arguments) throws Exception {
        String url = arguments[0];
        String body = "{\"prompt\": \"Hi\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]";
        for (String path : List.of("/v1/chat/completions", "/v1/completions")) {
            BodyPublisher whole = BodyPublishers.ofString(body + "}");
            print("whole " + path, CLIENT.send(post(url + path, whole), BodyHandlers.ofString()));
            byte[] bytes = (body + "}").getBytes();
            BodyPublisher chunked = BodyPublishers.ofInputStream(() -> new java.io.ByteArrayInputStream(bytes));
            print("chunked " + path, CLIENT.send(post(url + path, chunked), BodyHandlers.ofString()));
            BodyPublisher stream = BodyPublishers.ofString(body + ", \"stream\": true}");
            var lines = CLIENT.send(post(url + path, stream), BodyHandlers.ofLines());
            String joined = lines.body().filter(line -> !line.isEmpty()).collect(Collectors.joining("|"));
            System.out.println("stream " + path + " " + lines.version() + " " + lines.statusCode() + " " + joined);
        }
        var later = CLIENT.sendAsync(get(url + "/v1/models"), BodyHandlers.ofString());
        print("models /v1/models", later.get());
    }

    private static HttpRequest post(String url, BodyPublisher body) {
        return HttpRequest.newBuilder(URI.create(url)).header("Content-Type", "application/json").POST(body).build();
    }

    private static HttpRequest get(String url) {
        return HttpRequest.newBuilder(URI.create(url)).build();
    }

    private static void print(String name, HttpResponse<String> answer) {
        System.out.println(name + " " + answer.version() + " " + answer.statusCode() + " " + answer.body());
    }
}
