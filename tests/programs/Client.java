import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.Arrays;

/** Asks services with both of Java's clients, and compares: Client COUNT HOST NAME [HOST NAME]... */
class Client {
    static byte[] body(int number, String name) {
        return number % 3 == 2 ? (number + " ").repeat(number * 7 % 3000 + 1).getBytes() : (name + " /x?n=" + number + "\n").getBytes();
    }

    static void judge(int number, int status, byte[] seen, byte[] wanted) {
        if (status != 200 || !Arrays.equals(seen, wanted)) {
            System.err.println("request " + number + ": " + status + " " + new String(seen, 0, Math.min(200, seen.length)));
            System.exit(1);
        }
    }

    /** Blocking sockets without a time limit. */
    static void old(String host, String name, int count) throws Exception {
        for (int number = 0; number < count; number++) {
            boolean post = number % 3 == 2;
            byte[] body = body(number, name);
            var connection = (HttpURLConnection) new URL("http://" + host + (post ? "/echo" : "/x?n=" + number)).openConnection();
            if (post) {
                connection.setDoOutput(true);
                connection.setFixedLengthStreamingMode(body.length);
                connection.getOutputStream().write(body);
            }
            int status = connection.getResponseCode();
            try (InputStream stream = connection.getInputStream()) {
                judge(number, status, stream.readAllBytes(), body);
            }
        }
    }

    /** Selectors. */
    static void modern(String host, String name, int count) throws Exception {
        var client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        for (int number = 0; number < count; number++) {
            boolean post = number % 3 == 2;
            byte[] body = body(number, name);
            var request = HttpRequest.newBuilder(URI.create("http://" + host + (post ? "/echo" : "/x?n=" + number)));
            if (post) {
                request.POST(HttpRequest.BodyPublishers.ofByteArray(body));
            }
            var response = client.send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
            judge(number, response.statusCode(), response.body(), body);
        }
    }

    public static void main(String[] args) throws Exception {
        int count = Integer.parseInt(args[0]);
        for (int at = 1; at < args.length; at += 2) {
            old(args[at], args[at + 1], count);
            modern(args[at], args[at + 1], count);
        }
        System.out.println("right " + count);
    }
}
