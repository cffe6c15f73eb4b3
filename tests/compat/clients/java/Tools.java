// Apache Kafka's console tools in one process that stays, since each would take seconds to start: a line of JSON with the class
// and its arguments in, a line with its status and what it printed out. Run as a single source file.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.common.utils.Exit;

public class Tools {
    /** The first status that a tool wanted to end with, and what it had said; some catch what ends them, and go on. */
    static Integer ended;
    static String said;
    static ByteArrayOutputStream err;

    static void end(int status) {
        if (ended == null) {
            ended = status;
            said = err.toString();
        }
        throw new RuntimeException("end of the tool");
    }

    public static void main(String[] arguments) throws Exception {
        ObjectMapper json = new ObjectMapper();
        PrintStream answers = System.out;
        Exit.setExitProcedure((status, message) -> end(status));
        Exit.setHaltProcedure((status, message) -> end(status));
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            JsonNode request = json.readTree(line);
            List<String> words = new ArrayList<>();
            request.get("arguments").forEach(word -> words.add(word.asText()));
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            err = new ByteArrayOutputStream();
            ended = null;
            said = null;
            System.setOut(new PrintStream(out, true));
            System.setErr(new PrintStream(err, true));
            int status = run(request.get("class").asText(), words.toArray(new String[0]));
            answers.println(json.createObjectNode().put("status", status).put("out", out.toString()).put("err", said == null ? err.toString() : said));
            answers.flush();
        }
    }

    static int run(String name, String[] arguments) {
        // Scala's Console keeps the streams that it first saw.
        scala.Console$.MODULE$.withOut(System.out, () -> {
            try {
                Class.forName(name).getMethod("main", String[].class).invoke(null, (Object) arguments);
            } catch (InvocationTargetException error) {
                if (ended == null) {
                    error.getCause().printStackTrace();
                    ended = 1;
                }
            } catch (ReflectiveOperationException error) {
                error.printStackTrace();
                ended = 1;
            }
            return null;
        });
        return ended == null ? 0 : ended;
    }
}
